//! `vipd status --watch`: the snapshot live, with keys for what one does next.
//!
//! The terminal is given back as it was, however this ends. A thread asks the vipd and carries orders out, so that keys are heard while one that is
//! stuck doesn't answer.

mod screen;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, terminal};

use self::screen::draw;
use self::view::{Key, Outcome, View};
use super::Snapshot;
use crate::command::{Order, obey};
use crate::{exit, fail};

/// How often the vipd is asked.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long keys are awaited before the screen is looked at again.
const KEYS_WAIT: Duration = Duration::from_millis(50);

/// What the asking thread hears and says: one of each may wait.
const WAITING: usize = 1;

/// What the asking thread says.
enum News {
    Status(Box<anyhow::Result<Snapshot>>),
    /// What came of an order.
    Done(String),
}

/// Shows the status of the vipd behind a socket until the person at the terminal leaves.
pub(super) fn watch(socket: &Path) -> ExitCode {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return fail(
            exit::USAGE,
            &anyhow!("--watch needs a terminal; without one, use `vipd status` or `vipd status --json`"),
        );
    }
    // What can't be asked at all is said as `vipd status` says it.
    if let Err(error) = super::ask(socket) {
        return fail(exit::UNAVAILABLE, &error);
    }
    let shown = Terminal::take().and_then(|mut terminal| run(&mut terminal, socket.to_owned()));
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit::OSERR, &anyhow::Error::new(error).context("failed to use the terminal")),
    }
}

fn run(terminal: &mut Terminal, socket: PathBuf) -> io::Result<()> {
    let (orders, taken) = sync_channel(WAITING);
    let (told, news) = sync_channel(WAITING);
    thread::Builder::new().name("asker".to_owned()).spawn(move || ask(&socket, &taken, &told))?;
    let mut view = View::new();
    let mut seen: Option<anyhow::Result<Snapshot>> = None;
    let mut changed = true;
    loop {
        match news.try_recv() {
            Ok(News::Status(status)) => (seen, changed) = (Some(*status), true),
            Ok(News::Done(outcome)) => (view.message, changed) = (outcome, true),
            Err(TryRecvError::Empty) => {}
            // It ends only with this.
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        if std::mem::take(&mut changed) {
            let size = terminal::size()?;
            terminal.show(&draw(&view, seen.as_ref(), size))?;
        }
        if !event::poll(KEYS_WAIT)? {
            continue;
        }
        changed = true;
        let Some(key) = key(&event::read()?) else { continue };
        let known = seen.as_ref().and_then(|seen| seen.as_ref().ok());
        match view.press(key, known) {
            Outcome::Shown => {}
            Outcome::Leave => return Ok(()),
            Outcome::Order(order) => {
                if orders.try_send(order).is_err() {
                    "the one before is still being carried out".clone_into(&mut view.message);
                }
            }
        }
    }
}

/// Asks until nobody listens any more, and carries orders out.
fn ask(socket: &Path, orders: &Receiver<Order>, told: &SyncSender<News>) {
    loop {
        if told.send(News::Status(Box::new(super::ask(socket)))).is_err() {
            return;
        }
        match orders.recv_timeout(INTERVAL) {
            Ok(order) => {
                if told.send(News::Done(obey(socket, order))).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What a key means, if it is one of those that mean something.
fn key(event: &Event) -> Option<Key> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return None };
    if modifiers.contains(KeyModifiers::CONTROL) {
        return (*code == KeyCode::Char('c')).then_some(Key::Interrupt);
    }
    let keys = [
        (KeyCode::Up, Key::Up),
        (KeyCode::Down, Key::Down),
        (KeyCode::Enter, Key::Enter),
        (KeyCode::Esc, Key::Escape),
        (KeyCode::Backspace, Key::Backspace),
    ];
    if let KeyCode::Char(character) = code {
        return Some(Key::Character(*character));
    }
    keys.into_iter().find_map(|(named, key)| (named == *code).then_some(key))
}

/// The terminal while it is ours.
struct Terminal;

impl Terminal {
    fn take() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on it is given back.
        let this = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide, terminal::DisableLineWrap)?;
        Ok(this)
    }

    /// Shows a screen in one writing, so that it doesn't flicker.
    fn show(&mut self, screen: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(screen.as_bytes())?;
        out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Where the terminal is gone, there is nobody to give it back to.
        let _ =
            execute!(io::stdout(), terminal::EnableLineWrap, cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}
