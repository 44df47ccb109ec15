//! Where the values of a configuration come from: the text of a file, or flags and environment variables.
//!
//! serde reports the place of what does not parse. What parses and makes no sense (an id used twice, a port of its own
//! neighbour) is found later, by its path in the document; this module turns that path into a line and a column.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode, MarkedYaml, SafelyIndex};

use super::diagnostic::{Diagnostic, Place, Severity};

/// The largest configuration file that is read, in bytes. A file of a hundred backends takes about 10 kB.
const SIZE_MAX: u64 = 1 << 20;

/// One step of a path into a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The value of this key.
    Key(&'static str),
    /// The element at this index, from 0.
    Index(usize),
}

impl From<&'static str> for Step {
    fn from(key: &'static str) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Where the values of a configuration come from.
#[derive(Debug)]
pub(super) enum Source {
    /// From a file.
    Text(Text),
    /// From flags and environment variables.
    Names(Names),
}

impl Source {
    /// Makes a finding at the value that `path` leads to, or at the closest value above it that exists.
    pub(super) fn diagnose(
        &self,
        severity: Severity,
        path: &[Step],
        message: String,
        help: &str,
    ) -> Diagnostic {
        match self {
            Self::Text(text) => text.diagnose_at(severity, text.locate(path), message, help),
            Self::Names(names) => names.diagnose(severity, path, message, help),
        }
    }
}

/// The flags and environment variables that values came from, by the path of the key that each has filled.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<Vec<Step>, String>);

impl Names {
    /// Remembers what filled a key.
    pub(super) fn insert(&mut self, path: &[Step], name: String) {
        self.0.insert(path.to_vec(), name);
    }

    /// Makes a finding about what filled the key, or the closest key above it.
    pub(super) fn diagnose(
        &self,
        severity: Severity,
        path: &[Step],
        message: String,
        help: &str,
    ) -> Diagnostic {
        let name = (1..=path.len()).rev().find_map(|length| self.0.get(&path[..length]));
        let origin = name.map_or("kube-vip's flags and environment", String::as_str);
        Diagnostic {
            severity,
            origin: origin.to_owned(),
            place: None,
            line: None,
            message,
            help: help.to_owned(),
        }
    }
}

/// A configuration file's name and text.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(super) file: PathBuf,
    pub(super) text: String,
}

impl Text {
    /// Reads a file, with the commonest mistakes told apart.
    ///
    /// # Errors
    /// A finding that says why the file can't be read, and what to do.
    pub(crate) fn read(file: &Path) -> Result<Self, Box<Diagnostic>> {
        let fail = |message: String, help: &str| Box::new(Diagnostic::about_file(file, message, help));
        let metadata = fs::metadata(file).map_err(|error| {
            let help = if error.kind() == io::ErrorKind::NotFound {
                "`vipd sample config` prints one to start from"
            } else {
                "the user that runs vipd must be able to read the file and its folders"
            };
            fail(format!("failed to read the file: {error}"), help)
        })?;
        if metadata.is_dir() {
            return Err(fail(
                "is a directory, not a file".to_owned(),
                "a hostPath that does not exist is created as a directory: remove it, and put the file there",
            ));
        }
        if metadata.len() > SIZE_MAX {
            return Err(fail(
                format!("is {} bytes long", metadata.len()),
                "a configuration file has at most 1 MiB: is this the right file?",
            ));
        }
        let text = fs::read_to_string(file).map_err(|error| {
            fail(
                format!("failed to read the file: {error}"),
                "it must be UTF-8 text that vipd's user may read",
            )
        })?;
        Ok(Self { file: file.to_owned(), text })
    }

    /// A text that has been read or made elsewhere.
    pub(crate) fn of(file: &str, text: &str) -> Self {
        Self { file: PathBuf::from(file), text: text.to_owned() }
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The lines as YAML counts them: a carriage return alone ends one, too (YAML 1.2.2 §5.4).
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
    }

    /// Makes a finding at a place.
    pub(super) fn diagnose_at(
        &self,
        severity: Severity,
        place: Option<Place>,
        message: String,
        help: &str,
    ) -> Diagnostic {
        let line = place
            .and_then(|place| self.lines().nth(place.line.saturating_sub(1)))
            .map(|line| line.trim_end().to_owned());
        let origin = self.file.display().to_string();
        Diagnostic { severity, origin, place, line, message, help: help.to_owned() }
    }

    fn locate(&self, path: &[Step]) -> Option<Place> {
        if path.is_empty() {
            return None;
        }
        let documents = MarkedYaml::load_from_str(&self.text).ok()?;
        let mut node = documents.first()?;
        for step in path {
            let next = match *step {
                Step::Key(key) => node.get(key),
                Step::Index(index) => node.get(index),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        Some(Place { line: node.span.start.line(), column: node.span.start.col() + 1 })
    }
}
