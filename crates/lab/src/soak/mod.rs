//! A soak of the balancer: mixed load for as long as one likes, with backends that come and go, and books that must add up.
//!
//! ```text
//!  clients ──checked streams──▶ vipd ──▶ five backends, killed, stopped, drained, taken out of the file, and brought back
//!     │ what they sent and got   │ access log, metrics     │ what they got and sent
//!     └──────────────────────────┴──── the books ──────────┘
//! ```
//!
//! The seed decides what is said, by whom, and what is done to which backend. What meets what is the machine's doing as well.

mod book;
mod change;
mod clerk;
mod client;
mod content;
mod director;
mod kind;
mod report;
mod said;
mod sample;
mod server;
mod site;
mod talk;
mod totals;
mod wire;

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::sync::{mpsc, watch};

pub use server::{Backend, serve};

use clerk::Clerk;
use director::{Director, Means};
use kind::Scale;
use site::Site;

use crate::demo::{Console, readable};
use crate::isolation::Enclosure;
use crate::system::Programs;

/// Reports on their way from the client to the books.
const REPORTS: usize = 1024;

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// How long the load lasts that is judged.
    pub lasts: Duration,
    /// What everything is drawn from.
    pub seed: u64,
    /// How many questions a second are asked on a kept connection; two is what a machine hardly notices.
    pub rate: f64,
}

/// Runs a soak and tells what came of it; true if everything held.
///
/// # Errors
/// If the site can't be built, vipd ends, or something can't be understood.
pub async fn run(enclosure: &Enclosure, programs: &Programs, plan: &Plan) -> Result<bool> {
    let console = Console;
    console.line(format!("soak for {} from the seed {}", readable(plan.lasts), plan.seed));
    let scale = Scale::of(plan.lasts, plan.rate);
    let mut site = Site::build(enclosure, programs, plan.seed).await?;
    let ledger = server::ledger(&site::ledger(&site.folder))?;
    site.configure(&scale, &[true; site::BACKENDS])?;
    for place in 0..site::BACKENDS {
        site.start(place)?;
    }
    let (vipd, said) = site.start_vipd()?;
    let (reports, heard) = mpsc::channel(REPORTS);
    let (reloads, reloaded) = watch::channel(0);
    let (book, complaints) = (RefCell::default(), RefCell::default());
    let clerk = Clerk { reports: heard, ledger, vipd: said, reloads };
    let means = Means { book: &book, plan, scale, reports, reloaded };
    let mut director = Director::new(site, vipd, means)?;
    let writing = clerk.write(&book, &complaints);
    tokio::pin!(writing);
    let outcome = tokio::select! {
        outcome = director.run() => outcome,
        ended = &mut writing => Err(ended.err().unwrap_or_else(|| anyhow!("vipd has ended by itself"))),
    };
    let mut outcome = outcome.inspect_err(|_| report::break_off(&book.borrow()))?;
    let (stopped, ended) = tokio::join!(director.stop(), writing);
    ended?;
    outcome.checks.push(stopped?);
    book.borrow_mut().finish();
    Ok(report::tell(&book.borrow(), &outcome, &complaints.borrow(), plan))
}
