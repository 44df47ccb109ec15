//! A program at a terminal: what a person would see of it, and the keys they press.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

const COLUMNS: NonZero<u16> = NonZero::new(110).unwrap();
const ROWS: NonZero<u16> = NonZero::new(22).unwrap();

/// A terminal with a program in it, which ends with this.
pub(crate) struct Terminal {
    child: Child,
    keys: Option<ChildStdin>,
    seen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs a shell command at a terminal of its own.
    pub(crate) fn start(command: &str) -> Result<Self> {
        // script(1) makes the terminal and passes on what is typed and shown.
        let command = format!("stty cols {COLUMNS} rows {ROWS}; exec {command}");
        let mut child = Command::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("script can't be run")?;
        let mut output = child.stdout.take().context("it is piped")?;
        let keys = child.stdin.take();
        let seen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let shown = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..length]);
            }
        });
        Ok(Self { child, keys, seen, reader: Some(reader) })
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) -> Result<()> {
        let input = self.keys.as_mut().context("it runs")?;
        input.write_all(keys.as_bytes())?;
        Ok(input.flush()?)
    }

    /// What is on the screen.
    pub(crate) fn text(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Waits until the program has ended; gives its exit code.
    pub(crate) fn ended(&mut self) -> Result<Option<i32>> {
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            reader.join().ok().context("the reader of the screen failed")?;
        }
        Ok(status.code())
    }

    /// Whether the program has left the screen as it found it: the other one is gone, and the cursor is there.
    pub(crate) fn is_given_back(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        !seen.screen().alternate_screen() && !seen.screen().hide_cursor()
    }

    /// The screen as a picture, with its colours.
    pub(crate) fn picture(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (wide, high) = (u32::from(COLUMNS.get()) * 8 + 20, u32::from(ROWS.get()) * 18 + 20);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" font-family=\"monospace\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#12161c\"/>\n"
        );
        for row in 0..ROWS.get() {
            let y = u32::from(row) * 18 + 24;
            let mut cells =
                (0..COLUMNS.get()).filter_map(|column| seen.screen().cell(row, column)).peekable();
            let _ = write!(out, "<text x=\"10\" y=\"{y}\" xml:space=\"preserve\">");
            while let Some(cell) = cells.next() {
                let mut text = contents(cell);
                let colour = colour(cell);
                while let Some(next) = cells.next_if(|next| self::colour(next) == colour) {
                    text += &contents(next);
                }
                let text = text.replace('&', "&amp;").replace('<', "&lt;");
                let _ = write!(out, "<tspan fill=\"{colour}\">{text}</tspan>");
            }
            out += "</text>\n";
        }
        out + "</svg>\n"
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The end of its input is the end of the terminal, and so of the program.
        self.keys = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn contents(cell: &vt100::Cell) -> String {
    if cell.has_contents() { cell.contents().to_owned() } else { " ".to_owned() }
}

fn colour(cell: &vt100::Cell) -> &'static str {
    match cell.fgcolor() {
        _ if cell.inverse() => "#9aa6b5",
        vt100::Color::Idx(1 | 9) => "#ff6b6b",
        vt100::Color::Idx(2 | 10) => "#4cc37a",
        vt100::Color::Idx(3 | 11) => "#e0a03c",
        vt100::Color::Idx(_) | vt100::Color::Rgb(..) | vt100::Color::Default => "#e6eaf0",
    }
}
