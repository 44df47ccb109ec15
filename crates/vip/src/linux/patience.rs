//! Waiting at the start for a kernel whose network configuration is locked.
//!
//! All of a host's namespaces share one lock, and a host that makes and removes containers may hold it for longer than
//! an owner could wait for an answer. Who owns nothing yet has time.

use crate::error::Error;
use std::time::Duration;
use tokio::time::Instant;

/// How long a start waits: a kernel that is busy for longer has a trouble that is worth an exit and a line in a log.
const START_MAX: Duration = Duration::from_secs(30);

/// Does something that may be done again, until the kernel answers.
///
/// # Errors
///
/// What the kernel answers, or that it doesn't for [`START_MAX`].
pub(crate) async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let give_up = Instant::now() + START_MAX;
    let mut told = false;
    loop {
        match attempt().await {
            // An attempt that gets no answer has waited long enough for the next to follow at once.
            Err(error) if error.is_timeout() && Instant::now() < give_up => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        %error,
                        "the kernel doesn't answer, its network configuration is locked; trying again for {} s",
                        START_MAX.as_secs()
                    );
                }
            }
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    async fn silence() -> Error {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Error::List { what: "the interfaces", source: io::ErrorKind::TimedOut.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_answers_late_is_waited_for() {
        let mut attempts = 0;
        let found = patiently(|| {
            attempts += 1;
            let answers = attempts == 20;
            async move { if answers { Ok("ens3") } else { Err(silence().await) } }
        });
        assert_eq!(found.await.unwrap(), "ens3");
        assert_eq!(attempts, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_never_answers_is_told_of() {
        let began = Instant::now();
        let error = patiently(async || Err::<(), _>(silence().await)).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(began.elapsed(), START_MAX);
    }

    #[tokio::test]
    async fn an_answer_is_an_answer() {
        let mut attempts = 0;
        let missing = || Error::NoInterface { interface: "ens9".to_owned() };
        let ended = patiently(|| {
            attempts += 1;
            std::future::ready(Err::<(), _>(missing()))
        });
        assert_eq!(ended.await.unwrap_err().to_string(), missing().to_string());
        assert_eq!(attempts, 1);
    }
}
