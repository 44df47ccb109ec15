//! Nodes that serve what they know over HTTP.

use anyhow::Result;
use lab::lab::Lab;

use crate::hosts::{file, start_with};

/// Where every node serves.
pub(crate) const PORT: u16 = 2112;

/// Starts vipd on a node, with metrics.
pub(crate) fn start(lab: &mut Lab, place: usize) -> Result<()> {
    start_with(lab, place, &format!("{}metrics: ':{PORT}'\n", file(place)))
}
