//! Giving commands to the vipds of a lab.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use lab::lab::Lab;
use lab::system::Programs;

/// Runs `vipd step-down` for the vipd of a node.
pub(crate) async fn step_down(lab: &Lab, place: usize, arguments: &[&str]) -> Result<Output> {
    let mut command = tokio::process::Command::new(Programs::default().vipd()?);
    command.args(["step-down", "--socket"]).arg(lab.nodes[place].vipd_socket()).args(arguments);
    command.output().await.context("vipd can't be run")
}

/// The node that it named, if it was obeyed.
pub(crate) fn obeyed(output: &Output) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {error}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.strip_suffix(" leads\n").map(str::to_owned).with_context(|| format!("no leader in {text:?}"))
}
