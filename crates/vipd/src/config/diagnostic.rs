//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::path::Path;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The configuration can't be used.
    Error,
    /// The configuration can be used, and does something its writer may not expect.
    Warning,
}

/// A place in a file: line and column, both from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The line.
    pub(crate) line: usize,
    /// The column.
    pub(crate) column: usize,
}

/// One finding. Its `Display` is what an operator reads: place and cause, the line itself, the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    /// How much it matters.
    pub(crate) severity: Severity,
    /// Where the setting came from: the file, or the name of a flag or of an environment variable.
    pub(crate) origin: String,
    /// Where in the file; `None` where the file as a whole is meant, or there is none.
    pub(crate) place: Option<Place>,
    /// The text of that line.
    pub(crate) line: Option<String>,
    /// What is wrong.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) help: String,
}

impl Diagnostic {
    /// Makes a finding about a whole file.
    pub(crate) fn about_file(file: &Path, message: String, help: &str) -> Self {
        Self {
            severity: Severity::Error,
            origin: file.display().to_string(),
            place: None,
            line: None,
            message,
            help: help.to_owned(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        // Each part is one line and moves nothing on a terminal, whatever a text in the file has in it.
        let printable = |text: &str| text.replace(char::is_control, " ");
        write!(f, "{severity}: {}", printable(&self.origin))?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", printable(&self.message))?;
        if let (Some(Place { line, column }), Some(text)) = (self.place, &self.line) {
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let indent = " ".repeat(column.saturating_sub(1));
            write!(f, "\n  {number} | {}\n  {margin} | {indent}^", printable(text))?;
        }
        write!(f, "\n  help: {}", printable(&self.help))
    }
}
