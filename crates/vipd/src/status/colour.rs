//! Colours for people at a terminal: a few words that tell whether something is well.

use std::io::{self, IsTerminal as _};

use crossterm::style::{Color, ResetColor, SetForegroundColor};

/// Words that tell of something good, doubtful or bad.
const WORDS: [(&str, Color); 11] = [
    ("ready", Color::Green),
    ("active", Color::Green),
    ("draining", Color::Yellow),
    ("drained", Color::Yellow),
    ("cordoned", Color::Yellow),
    ("claiming", Color::Yellow),
    ("releasing", Color::Yellow),
    ("unfit", Color::Yellow),
    ("dead", Color::Red),
    ("silent", Color::Red),
    ("nobody", Color::Red),
];

/// Whether somebody at a terminal wants them (<https://no-color.org>).
pub(super) fn is_wanted() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused
}

/// A text with its words coloured.
pub(super) fn paint(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let (before, from) = rest.split_at(begin);
        let end = from.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        match WORDS.iter().find(|(known, _)| *known == word) {
            Some((_, colour)) => {
                out += &format!("{}{word}{}", SetForegroundColor(*colour), ResetColor);
            }
            None => out.push_str(word),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_coloured_whole_and_the_rest_is_as_it_was() {
        let (red, reset) = (SetForegroundColor(Color::Red), ResetColor);
        assert_eq!(paint("10.0.0.1:6443 dead, 3 open"), format!("10.0.0.1:6443 {red}dead{reset}, 3 open"));
        for plain in ["", "deadline", "already", "· 12", "é dead-end"] {
            let painted = paint(plain);
            let without = painted.replace(&red.to_string(), "").replace(&reset.to_string(), "");
            assert_eq!(without, plain);
        }
        assert_eq!(paint("deadline already"), "deadline already");
    }
}
