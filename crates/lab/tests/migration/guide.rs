//! What a guide tells an operator to do, read from it and carried out on a node of the lab.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use lab::node::Node;
use lab::process::{Launch, STOP_PATIENCE};
use lab::system::Programs;
use rustix::process::Signal;

/// Where the guides have vipd's file; in the lab it is in the node's folder.
const CONFIG: &str = "/etc/vipd/config.yaml";

/// A row of a table of steps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The host, as the guide calls it.
    pub(crate) host: String,
    /// The commands.
    pub(crate) commands: String,
}

/// The steps in the first table after a text: number, host, commands, and what is so afterwards.
pub(crate) fn table(guide: &str, after: &str) -> Result<Vec<Step>> {
    let (_, rest) = guide.split_once(after).with_context(|| format!("the guide has no `{after}`"))?;
    let rows = rest.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let steps = rows.take_while(|line| line.starts_with('|')).map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let commands = cells.get(3).and_then(|cell| cell.split('`').nth(1));
        let (Some(host), Some(commands)) = (cells.get(2), commands) else { bail!("no step: {row}") };
        Ok(Step { host: (*host).to_owned(), commands: commands.to_owned() })
    });
    steps.collect()
}

/// The lines of the first block of commands after a text.
pub(crate) fn block(guide: &str, after: &str) -> Result<Vec<String>> {
    let (_, rest) = guide.split_once(after).with_context(|| format!("the guide has no `{after}`"))?;
    let lines = rest.lines().skip_while(|line| !line.starts_with("```")).skip(1);
    let lines: Vec<String> = lines.take_while(|line| !line.starts_with("```")).map(str::to_owned).collect();
    ensure!(!lines.is_empty(), "nothing to do after `{after}`");
    Ok(lines)
}

/// The steps after a text that have a heading each, `**1. On F.**`, and a block of commands; to the end of its section.
pub(crate) fn numbered(guide: &str, after: &str) -> Result<Vec<Step>> {
    let (_, rest) = guide.split_once(after).with_context(|| format!("the guide has no `{after}`"))?;
    let section = rest.split("\n## ").next().unwrap_or_default();
    let headed = section.split("\n**").skip(1).filter_map(|part| part.split_once(". On "));
    let headed = headed.filter(|(number, _)| number.parse::<u8>().is_ok());
    let steps = headed.map(|(number, part)| {
        let host = part.split('.').next().unwrap_or_default().to_owned();
        let commands = block(part, "").with_context(|| format!("step {number}"))?.join("\n");
        Ok(Step { host, commands })
    });
    steps.collect()
}

/// Carries out a line: what it has services do is done with the node's processes, and the rest by a shell there.
pub(crate) async fn carry_out(node: &mut Node, line: &str) -> Result<()> {
    if !["systemctl ", "docker "].iter().any(|word| line.contains(word)) {
        return shell(node, line);
    }
    for command in line.split([';', '&']).map(str::trim).filter(|command| !command.is_empty()) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["systemctl", "disable", "--now", ..] => stop(node, &words[3..]).await?,
            ["systemctl", "enable", "--now", ..] => start(node, &words[3..])?,
            ["docker", "stop", ..] => stop(node, &words[2..]).await?,
            ["docker", "start", ..] => start(node, &words[2..])?,
            ["docker", "cp", from, to] => {
                let (container, path) = from.split_once(':').context("CONTAINER:PATH")?;
                // A container's files are in a folder of its name.
                let inside = node.folder().join(container).join(path.trim_start_matches('/'));
                let name = inside.file_name().context("a file")?.to_owned();
                std::fs::copy(&inside, node.folder().join(to).join(name))?;
            }
            _ => shell(node, command)?,
        }
    }
    Ok(())
}

/// SIGTERM to each, and waiting for their ends.
pub(crate) async fn stop(node: &mut Node, names: &[&str]) -> Result<()> {
    for name in names {
        node.process(name)?.signal(Signal::TERM)?;
    }
    for name in names {
        node.await_end(name, STOP_PATIENCE).await?;
    }
    Ok(())
}

fn start(node: &mut Node, names: &[&str]) -> Result<()> {
    for name in names {
        if *name == "vipd" && node.process(name).is_err() {
            start_vipd(node)?;
        } else {
            node.start_again(name)?;
        }
    }
    Ok(())
}

/// Starts vipd by the file in the node's folder.
pub(crate) fn start_vipd(node: &mut Node) -> Result<()> {
    let (config, socket) = (node.folder().join("config.yaml"), node.vipd_socket());
    let mut launch = Launch::new("vipd", &Programs::default().vipd()?, ["start", "-c"]);
    launch.args.extend([config.into(), "--socket".into(), socket.clone().into()]);
    launch.leftovers.push(socket);
    node.run(launch)
}

/// Runs a command in the node's folder and network, with the tested vipd as `vipd`.
fn shell(node: &Node, command: &str) -> Result<()> {
    let vipd = Programs::default().vipd()?;
    let config = node.folder().join("config.yaml");
    let script = format!(
        "vipd() {{ '{}' \"$@\"; }}\n{}",
        vipd.display(),
        command.replace(CONFIG, &config.display().to_string())
    );
    let output = node
        .host
        .namespace
        .within(|| Ok(Command::new("sh").args(["-euc", &script]).current_dir(node.folder()).output()?))?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn steps_and_commands_are_found_where_a_reader_finds_them() {
    let guide = "one\n\n| step | where | command | so |\n|---|---|---|---|\n| 1 | F | `a b && c` (d) | x |\n| 2 | O | `e` | y |\n\n\
                 two\n\n```\nf\ng h\n```\n\nthree\n\n**1. On F.** Now.\n\n```\ni\nj\n```\n\n**so**\n\n**2. On O.**\n\n```\nk\n```\n";
    let step = |host: &str, commands: &str| Step { host: host.to_owned(), commands: commands.to_owned() };
    assert_eq!(table(guide, "one").unwrap(), [step("F", "a b && c"), step("O", "e")]);
    assert_eq!(block(guide, "two").unwrap(), ["f", "g h"]);
    assert_eq!(numbered(guide, "three").unwrap(), [step("F", "i\nj"), step("O", "k")]);
    assert!(table(guide, "four").is_err() && block(guide, "four").is_err());
}
