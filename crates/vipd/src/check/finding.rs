//! One finding: what was looked at, what was found, why it matters, and the way out.

use serde_json::{Value, json};

use super::subjects::Subject;

/// What one look at the machine found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Doubtful,
    Bad,
}

impl Verdict {
    /// As it is printed.
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Doubtful => "warning",
            Self::Bad => "error",
        }
    }
}

/// One finding.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(super) subject: &'static Subject,
    pub(super) verdict: Verdict,
    /// The exit code, where this is the worst.
    pub(crate) code: u8,
    pub(super) text: String,
    /// The command or the change that mends it.
    pub(super) help: Option<String>,
}

impl Finding {
    pub(super) fn good(subject: &'static Subject, text: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Good, code: 0, text: text.into(), help: None }
    }

    pub(super) fn doubtful(
        subject: &'static Subject,
        text: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { subject, verdict: Verdict::Doubtful, code: 0, text: text.into(), help: Some(help.into()) }
    }

    pub(super) fn bad(
        subject: &'static Subject,
        code: u8,
        text: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { subject, verdict: Verdict::Bad, code, text: text.into(), help: Some(help.into()) }
    }

    /// Something that could not be looked at.
    pub(super) fn unseen(
        subject: &'static Subject,
        what: impl std::fmt::Display,
        help: impl Into<String>,
    ) -> Self {
        Self::doubtful(subject, format!("not looked at: {what}"), help)
    }

    /// What was found and the way out, in one line.
    pub(crate) fn line(&self) -> String {
        self.help.as_ref().map_or_else(|| self.text.clone(), |help| format!("{}; {help}", self.text))
    }

    /// For people: what was found, and where it isn't well, why it matters and the way out.
    pub(super) fn lines(&self) -> String {
        let mut lines = format!("{}: {}", self.verdict.word(), self.text);
        if self.verdict != Verdict::Good {
            lines += &format!("\n  why: {}", self.subject.why);
        }
        if let Some(help) = &self.help {
            lines += &format!("\n  help: {help}");
        }
        lines
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let why = (self.verdict != Verdict::Good).then_some(self.subject.why);
        json!({
            "id": self.subject.id,
            "verdict": self.verdict.word(),
            "found": self.text,
            "why": why,
            "mend": self.help,
        })
    }
}
