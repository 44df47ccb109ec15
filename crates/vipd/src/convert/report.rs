//! What became of each line: carried over, changed in meaning, without a counterpart, or to be filled in.

use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

/// The longest piece of a line that is shown, in characters.
const SHOWN_MAX: usize = 72;

/// More lines than a reader reads; a larger file is told to be one.
const NOTES_MAX: usize = 5_000;

/// Words after which a line has a secret.
const SECRETS: &[&str] = &["auth_pass", "auth", "password", "insecure-password", "unique_id"];

/// A place in a file: its name as given, and the line, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    /// The file.
    pub(crate) file: Rc<str>,
    /// The line.
    pub(crate) line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something that can't be read: where, what is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The place; without a line where the file as a whole is meant.
    pub(crate) at: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) help: String,
}

impl Fault {
    /// One about a line.
    pub(crate) fn new(at: &At, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { at: at.to_string(), message: message.into(), help: help.into() }
    }

    /// One about a whole file.
    pub(crate) fn about(file: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { at: file.to_owned(), message: message.into(), help: help.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, message, help } = self;
        write!(f, "{}", printable(&format!("{at}: {message}; {help}")))
    }
}

/// What became of a line, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It means the same in the configuration.
    Carried,
    /// The configuration does it in another way.
    Changed,
    /// Nothing corresponds to it, and nothing that matters is lost.
    Lost,
    /// What vipd's own loader says of the configuration.
    Warned,
    /// Nothing corresponds to it, and without it the configuration is not the setup that it was.
    Refused,
    /// The files don't say it, and without it there is no configuration.
    Missing,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Carried, Self::Changed, Self::Lost, Self::Warned, Self::Refused, Self::Missing];

    fn heading(self) -> &'static str {
        match self {
            Self::Carried => "carried over",
            Self::Changed => "changed in meaning",
            Self::Lost => "no counterpart",
            Self::Warned => "to be looked at",
            Self::Refused => "no counterpart, and the setup is not complete without it",
            Self::Missing => "to be filled in",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    kind: Kind,
    at: Option<At>,
    what: String,
    told: String,
}

/// The report. What is noted twice is told once.
#[derive(Debug, Default)]
pub(crate) struct Report {
    notes: BTreeSet<Note>,
    statements: Vec<(At, String)>,
    beyond: usize,
}

impl Report {
    /// Remembers a line that something has to be told of.
    pub(super) fn expect(&mut self, at: &At, words: &[String]) {
        if self.statements.len() < NOTES_MAX {
            self.statements.push((at.clone(), shown(words)));
        }
    }

    /// Tells what became of a line.
    pub(super) fn note(&mut self, kind: Kind, at: &At, words: &[String], told: impl Into<String>) {
        self.insert(Note { kind, at: Some(at.clone()), what: shown(words), told: told.into() });
    }

    /// Tells something about the setup as a whole.
    pub(super) fn tell(&mut self, kind: Kind, told: impl Into<String>) {
        self.insert(Note { kind, at: None, what: String::new(), told: told.into() });
    }

    /// Tells of every line that nothing was told of yet.
    pub(super) fn finish(&mut self) {
        let told: BTreeSet<At> = self.notes.iter().filter_map(|note| note.at.clone()).collect();
        for (at, what) in std::mem::take(&mut self.statements) {
            if !told.contains(&at) {
                let told = "has no effect on what was converted".to_owned();
                self.insert(Note { kind: Kind::Lost, at: Some(at), what, told });
            }
        }
    }

    /// Whether anything of a kind was told.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.notes.iter().any(|note| note.kind == kind)
    }

    fn insert(&mut self, note: Note) {
        // What decides the exit code is never left out.
        if self.notes.len() < NOTES_MAX || note.kind >= Kind::Refused {
            self.notes.insert(note);
        } else {
            self.beyond += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for kind in Kind::ALL {
            let mut notes = self.notes.iter().filter(|note| note.kind == kind).peekable();
            if notes.peek().is_none() {
                continue;
            }
            if !first {
                write!(f, "\n\n")?;
            }
            first = false;
            write!(f, "{}:", kind.heading())?;
            for Note { at, what, told, .. } in notes {
                let place = at.as_ref().map(|at| format!("{at}: ")).unwrap_or_default();
                let between = match (what.is_empty(), kind) {
                    (true, _) => "",
                    (false, Kind::Carried) => " → ",
                    (false, Kind::Changed | Kind::Lost | Kind::Warned | Kind::Refused | Kind::Missing) => {
                        ": "
                    }
                };
                write!(f, "\n  {}", printable(&format!("{place}{what}{between}{told}")))?;
            }
        }
        if self.beyond > 0 {
            write!(f, "\n\nand {} lines more", self.beyond)?;
        }
        Ok(())
    }
}

/// The words of a line, without what is secret, and not too long.
fn shown(words: &[String]) -> String {
    let secret = words.iter().position(|word| SECRETS.contains(&word.as_str()));
    let (words, end) = match secret {
        Some(place) if place + 1 < words.len() => (&words[..=place], " …"),
        Some(_) | None => (words, ""),
    };
    let text = words.join(" ");
    match text.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => format!("{text}{end}"),
    }
}

/// A text that does nothing to a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize) -> At {
        At { file: "a.conf".into(), line }
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_line_that_nobody_told_of_is_told() {
        let mut report = Report::default();
        report.expect(&at(1), &words("known 1"));
        report.expect(&at(2), &words("forgotten 2"));
        report.note(Kind::Carried, &at(1), &words("known 1"), "key: 1");
        report.finish();
        let text = report.to_string();
        assert_eq!(
            text,
            "carried over:\n  a.conf:1: known 1 → key: 1\n\nno counterpart:\n  a.conf:2: forgotten 2: has no effect on what was converted"
        );
    }

    #[test]
    fn secrets_and_control_characters_are_not_shown() {
        let mut report = Report::default();
        report.note(Kind::Lost, &at(3), &words("auth_pass hunter2"), "why");
        report.note(Kind::Lost, &at(4), &words("stats auth admin:hunter2"), "why");
        report.note(Kind::Lost, &at(5), &words("a\u{1b}[2J"), "why");
        let text = report.to_string();
        assert!(!text.contains("hunter2") && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("auth_pass …: why"), "{text}");
    }
}
