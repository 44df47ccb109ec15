//! The screen as bytes for a terminal: the lines of `vipd status`, as many as fit, with colours, the chosen backend, and what the keys do.

use std::fmt::Write as _;

use crossterm::cursor;
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{Clear, ClearType};

use super::view::View;
use crate::status::Snapshot;
use crate::status::colour::{is_wanted, paint};
use crate::status::show::{BACKEND, CONTINUED, MOVE, PEER, text};

/// One whole screen of so many columns and lines.
pub(super) fn draw(
    view: &View,
    seen: Option<&anyhow::Result<Snapshot>>,
    (columns, rows): (u16, u16),
) -> String {
    let mut lines = match seen {
        None => vec!["asking …".to_owned()],
        Some(Ok(snapshot)) => shown(view, snapshot),
        Some(Err(error)) => vec![format!("{error:#}")],
    };
    let room = usize::from(rows).saturating_sub(2);
    // What doesn't fit is told of. The chosen backend is among the last lines, so those are kept.
    if lines.len() > room && room > 0 {
        let hidden = lines.len() - room + 1;
        let head = lines.len().min(room / 3);
        lines.splice(
            head..head + hidden,
            [format!("  ({hidden} lines more: make the window larger, or filter)")],
        );
    }
    lines.resize(room, String::new());
    lines.extend([view.message.clone(), view.footer()]);
    let colours = is_wanted();
    let mut out = String::new();
    let width = usize::from(columns);
    for (row, line) in lines.iter().enumerate() {
        let cut: String = line.chars().take(width).collect();
        let at = cursor::MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX));
        let painted = if row + 1 == lines.len() {
            format!("{}{cut}{}", SetAttribute(Attribute::Reverse), SetAttribute(Attribute::Reset))
        } else if colours {
            paint(&cut)
        } else {
            cut
        };
        // Writing to a string can't fail.
        let _ = write!(out, "{at}{painted}{}", Clear(ClearType::UntilNewLine));
    }
    out
}

/// The lines that the view's filter leaves, with the chosen backend marked.
fn shown(view: &View, snapshot: &Snapshot) -> Vec<String> {
    let (mut lines, mut backend, mut is_shown) = (Vec::new(), 0, true);
    for line in text(snapshot).lines() {
        // What belongs to the line before goes with it.
        if !line.starts_with(CONTINUED) {
            let may_be_left_out = [BACKEND, PEER, MOVE].iter().any(|kind| line.starts_with(kind));
            is_shown = !may_be_left_out || view.shows(line);
        }
        if !is_shown {
            continue;
        }
        match line.strip_prefix(BACKEND) {
            Some(rest) => {
                let mark = if backend == view.chosen { "▸ " } else { "  " };
                lines.push(format!("{mark}{}{rest}", BACKEND.trim_start()));
                backend += 1;
            }
            None => lines.push(line.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        serde_json::from_str(include_str!("../sample.json")).unwrap()
    }

    #[test]
    fn a_screen_has_as_many_lines_as_the_terminal_and_the_keys_in_the_last() {
        let (seen, view) = (Ok(snapshot()), View::new());
        for size in [(80, 24), (20, 5), (200, 60), (1, 1), (0, 0), (80, 2)] {
            let screen = draw(&view, Some(&seen), size);
            let lines = screen.matches(&cursor::MoveTo(0, 0).to_string()[..2]).count();
            assert!(lines >= usize::from(size.1).max(2), "{size:?}: {screen:?}");
        }
        let screen = draw(&view, Some(&seen), (200, 40));
        assert!(screen.contains("▸ backend  10.0.0.163:6443"), "{screen:?}");
        assert!(screen.contains("q quit"), "{screen:?}");
    }

    #[test]
    fn a_filter_leaves_what_has_it_and_what_is_not_a_list() {
        let mut view = View::new();
        view.filter = "10.0.0.164".to_owned();
        let lines = shown(&view, &snapshot());
        assert_eq!(lines.iter().filter(|line| line.contains("backend  ")).count(), 1);
        assert!(lines.iter().any(|line| line.starts_with("leader")));
        assert!(!lines.iter().any(|line| line.starts_with("peer")), "{lines:?}");
    }
}
