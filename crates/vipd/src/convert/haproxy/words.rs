//! haproxy.cfg as sections of lines.

use std::rc::Rc;

use crate::convert::Text;
use crate::convert::report::{At, Fault, Report};

/// haproxy's own bound for a line, in bytes.
const LINE_MAX: usize = 16 << 10;
/// How many lines all files have together.
const LINES_MAX: usize = 20_000;

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    /// Where it is.
    pub(super) at: At,
    /// Its words; never none.
    pub(super) words: Vec<String>,
}

impl Line {
    /// A word, or an empty one.
    pub(super) fn word(&self, place: usize) -> &str {
        self.words.get(place).map_or("", String::as_str)
    }
}

/// A section: its first line, and the others.
#[derive(Debug)]
pub(super) struct Section {
    /// `frontend NAME`, and so on.
    pub(super) head: Line,
    /// What stands in it.
    pub(super) lines: Vec<Line>,
}

/// Words that begin a section.
const SECTIONS: &[&str] = &[
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "log-profile",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
];

/// All sections of the files, in their order.
///
/// # Errors
/// A quote that isn't closed, a line outside of any section, or more than there may be.
pub(super) fn sections(texts: &[Text], report: &mut Report) -> Result<Vec<Section>, Fault> {
    let mut sections: Vec<Section> = Vec::new();
    let mut count = 0;
    for (file, text) in texts {
        // A section ends with its file.
        let floor = sections.len();
        for (place, text) in text.lines().enumerate() {
            let at = At { file: Rc::clone(file), line: place + 1 };
            let words = words(text, &at)?;
            let Some(first) = words.first() else { continue };
            count += 1;
            if count > LINES_MAX {
                let message = format!("there are more than {LINES_MAX} lines");
                return Err(Fault::new(&at, message, "is this the right file?"));
            }
            report.expect(&at, &words);
            if SECTIONS.contains(&first.as_str()) {
                sections.push(Section { head: Line { at, words }, lines: Vec::new() });
            } else if sections.len() > floor
                && let Some(section) = sections.last_mut()
            {
                section.lines.push(Line { at, words });
            } else {
                let message = format!("`{first}` stands in no section");
                return Err(Fault::new(
                    &at,
                    message,
                    format!("begin one before it: {}", SECTIONS[..5].join(", ")),
                ));
            }
        }
    }
    Ok(sections)
}

/// The words of a line without its comment (haproxy's manual, 2.2 “Quoting and escaping”).
fn words(line: &str, at: &At) -> Result<Vec<String>, Fault> {
    if line.len() > LINE_MAX {
        let message = format!("the line is longer than {LINE_MAX} bytes");
        return Err(Fault::new(at, message, "write one statement a line"));
    }
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => {
                let Some(escaped) = characters.next() else {
                    let message = "a line ends with \\, and haproxy's lines don't go on";
                    return Err(Fault::new(
                        at,
                        message,
                        "remove the \\, and write the statement on one line",
                    ));
                };
                word.get_or_insert_default().push(escaped);
            }
            ('$', Some('"')) => {
                let message = "a variable of the environment, which isn't known here";
                return Err(Fault::new(at, message, "write its value, or \\$ for the character"));
            }
            ('#', None) => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None | Some(_)) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(Fault::new(at, "a quote is not closed on its line", format!("add the closing {quote}")));
    }
    words.extend(word);
    Ok(words)
}
