//! `vipd step-down`: hands the lead to another node, and waits until that leads.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::serve::SUCCESSOR_MAX;
use super::{Answer, Refusal, Request, socket};
use crate::status::{READ_MAX, connect, unanswered};
use crate::{cli, exit, fail, print};

/// All answers to one command: two lines, with as many names as there are nodes.
const ANSWERS_MAX: u64 = 16 * 1024;

/// Gives the command to the vipd behind a socket. Tells the new leader once there is one; the exit code says why not.
pub(crate) fn step_down(options: &cli::StepDown) -> ExitCode {
    let to = options.to.as_ref().map(|node| node.as_str().to_owned());
    match carry_out(&options.socket, &Request::StepDown { to, vip: options.vip }) {
        Ok(Ok(node)) => print(&format!("{node} leads\n")),
        Ok(Err(Refusal { why, text })) => {
            let code = if why.passes() { exit::TEMPFAIL } else { exit::UNAVAILABLE };
            fail(code, &anyhow!("{text}"))
        }
        Err(error) => {
            let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            let code = match error.chain().find_map(|cause| cause.downcast_ref()) {
                Some(cause) if denied(cause) => exit::NOPERM,
                Some(_) | None => exit::UNAVAILABLE,
            };
            fail(code, &error)
        }
    }
}

/// Gives a command, and waits until it is done; gives the new leader, or why there is none.
fn carry_out(status: &Path, request: &Request) -> anyhow::Result<Result<String, Refusal>> {
    let path = socket(status);
    let ask = || -> io::Result<UnixStream> {
        let mut stream = connect(&path)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(stream)
    };
    let stream = ask().map_err(|error| {
        // Where a status socket is and none for commands.
        let older = error.kind() == io::ErrorKind::NotFound && status.exists();
        match older {
            true => {
                anyhow!("the vipd behind {} takes no commands: it is of an older version", status.display())
            }
            false => unanswered(error, &path, READ_MAX),
        }
    })?;
    let mut answers = BufReader::new(stream.try_clone()?.take(ANSWERS_MAX));
    let mut next = |patience: Duration| -> anyhow::Result<Answer> {
        stream.set_read_timeout(Some(patience))?;
        let mut line = String::new();
        answers.read_line(&mut line).map_err(|error| unanswered(error, &path, patience))?;
        if line.is_empty() {
            return Err(anyhow!(
                "the vipd behind {} has ended the conversation: it was stopped, or has too many at a time",
                path.display()
            ));
        }
        serde_json::from_str(&line)
            .with_context(|| format!("{} did not answer as a vipd does", path.display()))
    };
    let mut answer = next(READ_MAX)?;
    if let Answer::Begun { .. } = answer {
        answer = next(SUCCESSOR_MAX + READ_MAX)?;
    }
    match answer {
        Answer::Leads { node } => Ok(Ok(node)),
        Answer::Refused(refusal) => Ok(Err(refusal)),
        Answer::Begun { .. } => Err(anyhow!("{} did not answer as a vipd does", path.display())),
    }
}
