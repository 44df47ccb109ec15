//! Takes in what everybody says, and writes it in the books.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixDatagram;
use tokio::process::ChildStderr;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, interval};

use super::book::Book;
use super::client::Report;
use super::said::{Said, said};
use super::server::ENTRY_MAX;

/// How often what has waited for long enough is judged.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);
/// Different complaints of vipd that are counted apart.
const MOST_COMPLAINTS: usize = 50;

/// What it hears.
pub(super) struct Clerk {
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) ledger: UnixDatagram,
    pub(super) vipd: ChildStderr,
    /// How often the file was read again.
    pub(super) reloads: watch::Sender<u64>,
}

impl Clerk {
    /// Writes until vipd's log ends.
    ///
    /// # Errors
    /// If vipd or a backend says what can't be read.
    pub(super) async fn write(
        mut self,
        book: &RefCell<Book>,
        complaints: &RefCell<BTreeMap<String, u64>>,
    ) -> Result<()> {
        let mut lines = BufReader::new(self.vipd).lines();
        let mut tick = interval(SETTLE_INTERVAL);
        let mut buffer = [0; ENTRY_MAX];
        let mut told = 0;
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let Some(line) = line? else { return Ok(()) };
                    match said(&line)? {
                        Said::Access(access) => book.borrow_mut().line(access, Instant::now()),
                        Said::Reloaded => self.reloads.send_modify(|count| *count += 1),
                        Said::Complaint(what) => {
                            let mut complaints = complaints.borrow_mut();
                            if complaints.len() < MOST_COMPLAINTS || complaints.contains_key(&what) {
                                *complaints.entry(what).or_insert(0) += 1;
                            }
                        }
                        Said::Other => {}
                    }
                }
                Some(report) = self.reports.recv() => book.borrow_mut().report(report, Instant::now()),
                received = self.ledger.recv(&mut buffer) => {
                    let entry = serde_json::from_slice(&buffer[..received?]).context("a backend's entry")?;
                    book.borrow_mut().entry(entry);
                }
                _ = tick.tick() => book.borrow_mut().settle(Instant::now()),
            }
            let book = book.borrow();
            while told < book.failures.len() {
                crate::demo::Console.line(format!("FAILED: {}", book.failures[told]));
                told += 1;
            }
        }
    }
}
