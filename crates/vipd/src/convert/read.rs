//! Files, and those that they include.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Text;

/// The largest file that is read, in bytes, as for a config.yaml.
const SIZE_MAX: u64 = 1 << 20;
/// All files together, included ones too.
const TOTAL_MAX: u64 = 8 << 20;
/// How many files are read.
const FILES_MAX: usize = 256;
/// How many names of a folder are looked at.
const ENTRIES_MAX: usize = 10_000;
/// What is read of a folder that a Pod mounts.
const USUAL: [&str; 4] = ["keepalived.conf", "haproxy.cfg", "nginx.conf", "config.yaml"];

/// Reads files, within bounds.
#[derive(Debug, Default)]
pub(super) struct Reader {
    files: usize,
    bytes: u64,
}

impl Reader {
    /// Reads one.
    ///
    /// # Errors
    /// Why it can't be, in words for an operator.
    pub(super) fn read(&mut self, path: &Path) -> Result<Text, String> {
        if self.files >= FILES_MAX {
            return Err(format!("these are more than {FILES_MAX} files"));
        }
        self.files += 1;
        let failed = |error: std::io::Error| format!("failed to read the file: {error}");
        let file = fs::File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err("is a directory, not a file".to_owned());
        }
        let mut bytes = Vec::new();
        file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
        if length > SIZE_MAX || self.bytes > TOTAL_MAX {
            return Err("is larger than 1 MiB, or all files together than 8 MiB".to_owned());
        }
        let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
        Ok((path.display().to_string().into(), text))
    }

    /// Reads what a Pod mounts of its host: a file, or those of a folder that have their usual names.
    ///
    /// # Errors
    /// Why it can't be, in words for an operator.
    pub(super) fn mounted(&mut self, path: &Path) -> Result<Vec<Text>, String> {
        let found = fs::metadata(path).map_err(|error| format!("failed to read it: {error}"))?;
        if found.is_file() {
            return Ok(vec![self.read(path)?]);
        }
        // A device or a pipe might have no end.
        if !found.is_dir() {
            return Err("is neither a file nor a folder".to_owned());
        }
        let files = USUAL.iter().map(|name| path.join(name)).filter(|file| file.is_file());
        files.map(|file| self.read(&file)).collect()
    }

    /// Reads those that a file includes by a name or a pattern, which is relative to its own folder; in the order of their names.
    ///
    /// # Errors
    /// Why one of them can't be, in words for an operator. A pattern that nothing fits is none.
    pub(super) fn include(&mut self, from: &str, pattern: &str) -> Result<Vec<Text>, String> {
        let base = Path::new(from).parent().unwrap_or_else(|| Path::new(""));
        let whole = base.join(pattern);
        let name = whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = whole.parent().unwrap_or_else(|| Path::new("")).to_owned();
        if folder.to_string_lossy().contains(['*', '?', '[']) || name.contains(['[', '{']) {
            return Err("only * and ? in the last part of a path are followed".to_owned());
        }
        if !name.contains(['*', '?']) {
            return Ok(vec![self.read(&whole)?]);
        }
        let listed = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.clone() };
        let entries = fs::read_dir(listed).map_err(|error| format!("failed to list the folder: {error}"))?;
        let mut names: Vec<String> = entries
            .take(ENTRIES_MAX)
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|found| !found.starts_with('.') && fits(&name, found))
            .collect();
        names.sort();
        names
            .iter()
            .map(|name| self.read(&folder.join(name)).map_err(|why| format!("{name}: {why}")))
            .collect()
    }
}

/// Whether a name fits a pattern of `*` and `?`.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            Some(_) | None => match back {
                // The last star takes one more.
                Some((star, taken)) => {
                    (p, n) = (star + 1, taken + 1);
                    back = Some((star, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The name of a text in messages.
pub(super) fn name(text: &Text) -> Rc<str> {
    Rc::clone(&text.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_take_anything_and_question_marks_one() {
        for (pattern, name) in
            [("*.conf", "a.conf"), ("a*b*c", "axxbyyc"), ("?.conf", "a.conf"), ("*", ""), ("a*", "a")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.conf", "a.con"), ("?.conf", "ab.conf"), ("a*b", "a"), ("", "a")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
