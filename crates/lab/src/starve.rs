//! Starvation: busy loops take the machine's processors for a while, and nothing else is wrong.
//!
//! All nodes share the machine, so all are starved alike, and the client with them. Every move is a needless one.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::demo::{Console, readable};
use crate::fault::Fault;
use crate::lab::Lab;
use crate::system::System;

/// The first owner must be there by then.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Nothing may have happened for this long before, and how long that may take.
const CALM: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(90)];
/// How often what has happened so far is told.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Starves a system for a while and tells how often the address moved and how long a client waited; true if it never moved, and
/// never two nodes answered.
///
/// # Errors
/// If the lab cannot be brought up.
pub async fn run(lab: &mut Lab, system: System, lasts: Duration) -> Result<bool> {
    let console = Console;
    lab.start_backends().await?;
    lab.start_system(system)?;
    lab.await_owner(START_PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    let owner = lab.calm(CALM[0], CALM[1]).await?;
    console.line(format!("{system}: starved for {}", readable(lasts)));
    let from = Instant::now();
    lab.inflict(Fault::Starved, owner).await?;
    let (mut moves, mut silence, mut answered, mut failed, mut good) = (0, Duration::ZERO, 0, 0, 0);
    // In parts: what the observers remember is bounded.
    let mut part = from;
    while part < from + lasts {
        tokio::time::sleep_until((part + REPORT_INTERVAL).min(from + lasts)).await;
        let seen = lab.observe(std::mem::replace(&mut part, Instant::now()));
        moves += seen.moves.len();
        silence = silence.max(seen.service.silence);
        answered = answered.max(seen.answered_at_once);
        failed += seen.service.failures();
        good += seen.service.good;
        console.line(format!(
            "after {:>6}: {moves} moves, longest silence {}, {good} requests answered, {failed} failed, {answered} nodes answered at once",
            readable(part - from),
            readable(silence)
        ));
    }
    lab.undo(Fault::Starved, owner).await?;
    Ok(moves == 0 && answered <= 1)
}
