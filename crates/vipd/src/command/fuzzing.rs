//! What fuzzing calls of commands. See [`crate::fuzzing`].

use super::{Answer, Request};
use crate::logging;

/// A line on the command socket, or an answer to one; and a level of what is logged.
///
/// What is read is written as it was read, in one line.
pub fn command(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    if let Ok(request) = serde_json::from_str::<Request>(line) {
        let written = serde_json::to_string(&request).expect("it makes JSON");
        assert!(!written.contains('\n'), "{written:?}");
        let again: Request = serde_json::from_str(&written).expect("which is read again");
        assert_eq!(again, request);
        if let Request::LogLevel { level: Some(level) } = &request {
            let _ = logging::filter(level);
        }
    }
    if let Ok(answer) = serde_json::from_str::<Answer>(line) {
        let written = serde_json::to_string(&answer).expect("it makes JSON");
        assert!(!written.contains('\n'), "{written:?}");
        let again: Answer = serde_json::from_str(&written).expect("which is read again");
        assert_eq!(again, answer);
    }
    if let Err(error) = logging::filter(line) {
        assert!(!error.to_string().is_empty());
    }
}
