//! A planned move to a certain node.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::lab::Lab;
use lab::network::NODES;
use tokio::time::Instant;

use crate::commands::{obeyed, step_down};

/// Has the owner step down in favour of a node that was started a moment ago, as soon as that can take over: from then on all three
/// vote again.
pub(crate) async fn hand_over(lab: &Lab, owner: usize, next: usize, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let output = step_down(lab, owner, &["--to", NODES[next]]).await?;
        // "Try again in a moment": it abstains for a lease.
        if output.status.code() == Some(75) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        ensure!(obeyed(&output)? == NODES[next]);
        return Ok(());
    }
}
