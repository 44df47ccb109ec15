//! The asker's side: one line there, one or two back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::serve::SUCCESSOR_MAX;
use super::{Answer, Refusal, Request, socket};
use crate::status::{READ_MAX, connect, unanswered};
use crate::{exit, fail};

/// All answers to one command: two lines, with as many names as there are nodes or backends.
const ANSWERS_MAX: u64 = 64 * 1024;

/// Gives a command to the vipd behind a status socket, and waits until it is done. What came of it, or why it was not done: an exit
/// code, and a line that has been written.
pub(super) fn ask(status: &Path, request: &Request) -> Result<Answer, ExitCode> {
    match carry_out(status, request) {
        Ok(Answer::Refused(Refusal { why, text })) => {
            let code = if why.passes() { exit::TEMPFAIL } else { exit::UNAVAILABLE };
            Err(fail(code, &anyhow!("{text}")))
        }
        Ok(answer) => Ok(answer),
        Err(error) => {
            let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            let code = match error.chain().find_map(|cause| cause.downcast_ref()) {
                Some(cause) if denied(cause) => exit::NOPERM,
                Some(_) | None => exit::UNAVAILABLE,
            };
            Err(fail(code, &error))
        }
    }
}

/// What to say of an answer that doesn't belong to the command.
pub(super) fn strange(status: &Path) -> ExitCode {
    fail(exit::UNAVAILABLE, &anyhow!("{} did not answer as a vipd does", socket(status).display()))
}

/// Gives a command, and waits for the last answer.
pub(super) fn carry_out(status: &Path, request: &Request) -> anyhow::Result<Answer> {
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
    let first = next(READ_MAX)?;
    if let Answer::Begun { .. } = first { next(SUCCESSOR_MAX + READ_MAX) } else { Ok(first) }
}
