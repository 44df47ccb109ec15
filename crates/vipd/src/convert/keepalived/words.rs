//! One line of keepalived.conf: comments, quotes, braces, and the values of definitions.

use std::collections::BTreeMap;

use crate::convert::report::{At, Fault};

/// The longest line, before and after definitions have been filled in, in bytes: keepalived's own buffer is not longer.
const LINE_MAX: usize = 8 << 10;

/// More definitions than a file has.
const DEFINITIONS_MAX: usize = 1_000;

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// `{`
    Open,
    /// `}`
    Close,
    /// Anything else.
    Word(String),
}

/// What `$NAME` stands for.
#[derive(Debug, Default)]
pub(super) struct Definitions(BTreeMap<String, String>);

impl Definitions {
    /// Takes a line of the form `$NAME=VALUE`; `false` where it is another.
    ///
    /// # Errors
    /// A definition over several lines, or too many.
    pub(super) fn define(&mut self, line: &str, at: &At) -> Result<bool, Fault> {
        let Some(rest) = line.trim().strip_prefix('$') else { return Ok(false) };
        let name = &rest[..name_length(rest)];
        let Some(value) = rest[name.len()..].trim_start().strip_prefix('=') else { return Ok(false) };
        if name.is_empty() {
            return Err(Fault::new(at, "`$=` defines nothing", "write $NAME=VALUE"));
        }
        let value = self.fill(value.trim(), at)?;
        if value.ends_with('\\') {
            let message = format!("the definition of `${name}` goes on over several lines");
            return Err(Fault::new(at, message, "write what it stands for where it is used"));
        }
        if self.0.len() >= DEFINITIONS_MAX {
            let message = format!("there are more than {DEFINITIONS_MAX} definitions");
            return Err(Fault::new(at, message, "write values where they are used"));
        }
        self.0.insert(name.to_owned(), value);
        Ok(true)
    }

    /// A line with values in the place of names.
    ///
    /// # Errors
    /// It is too long.
    pub(super) fn fill(&self, line: &str, at: &At) -> Result<String, Fault> {
        let mut filled = String::new();
        let mut rest = line;
        while let Some(place) = rest.find('$') {
            filled.push_str(&rest[..place]);
            rest = &rest[place + 1..];
            let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some((name, after)) => (name, after),
                None => rest.split_at(name_length(rest)),
            };
            match self.0.get(name) {
                Some(value) => {
                    filled.push_str(value);
                    rest = after;
                }
                // As keepalived does: what isn't defined is a text like any other.
                None => filled.push('$'),
            }
            if filled.len() > LINE_MAX {
                break;
            }
        }
        filled.push_str(rest);
        if filled.len() > LINE_MAX {
            let message = format!("the line is longer than {LINE_MAX} bytes");
            return Err(Fault::new(at, message, "write one statement a line"));
        }
        Ok(filled)
    }
}

fn name_length(text: &str) -> usize {
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
}

/// The pieces of a line, without its comment.
///
/// # Errors
/// A quote that isn't closed.
pub(super) fn tokens(line: &str, at: &At) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '#' | '!' => break,
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') => word.extend(characters.next()),
                        Some(c) => word.push(c),
                        None => {
                            let message = "a quote is not closed on its line";
                            return Err(Fault::new(at, message, "add the closing \""));
                        }
                    }
                }
            }
            '$' if characters.peek() == Some(&'{') => {
                let word = word.get_or_insert_default();
                word.push('$');
                for c in characters.by_ref() {
                    word.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            '{' | '}' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(if c == '{' { Token::Open } else { Token::Close });
            }
            c if c.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            c => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word.map(Token::Word));
    Ok(tokens)
}
