//! Why the API didn't do what was asked, in words that say the way out.

use std::{error::Error as _, fmt};

use kube::Error;

/// A request that one server didn't carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    text: String,
}

/// What kind of failure it is: what to do next follows from this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server could not be reached, or gave no useful answer: another may.
    Server,
    /// Its certificate is not for the name it was asked by.
    Name,
    /// It doesn't know this client, or doesn't let it do this: others won't either, but other credentials might.
    Credentials,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some of it is a server's own words, which go into a line of the log and to a terminal.
        f.write_str(&self.text.replace(char::is_control, " "))
    }
}

impl Failure {
    /// No answer in time.
    pub(super) fn timed_out() -> Self {
        Self { kind: Kind::Server, text: "no answer in time".to_owned() }
    }

    /// A client could not even be made of the credentials.
    pub(super) fn unusable(error: &Error) -> Self {
        Self { kind: Kind::Credentials, text: format!("the credentials make no client: {}", chain(error)) }
    }

    /// What an error of the client means, for who takes part in an election.
    pub(super) fn of(error: &Error) -> Self {
        Self::explained(error, "`vipd manifest rbac` prints what is needed")
    }

    /// What it means, and where it is said which rights are needed.
    pub(super) fn explained(error: &Error, rights: &str) -> Self {
        if let Error::Api(status) = error {
            let message = status.message.trim();
            return match status.code {
                401 => Self {
                    kind: Kind::Credentials,
                    text: format!(
                        "401, the server doesn't know these credentials ({message}): renew them (`kubeadm certs renew admin.conf`)"
                    ),
                },
                403 => {
                    Self { kind: Kind::Credentials, text: format!("403, not allowed: {message} ({rights})") }
                }
                code => Self { kind: Kind::Server, text: format!("{code}: {message}") },
            };
        }
        let tls = tls_error(error);
        match tls {
            Some(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName
                | rustls::CertificateError::NotValidForNameContext { .. },
            )) => Self { kind: Kind::Name, text: chain(error) },
            Some(rustls::Error::InvalidCertificate(
                rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
            )) => Self {
                kind: Kind::Server,
                text: "the server's certificate has expired (`kubeadm certs renew apiserver`), or this host's clock is wrong"
                    .to_owned(),
            },
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => Self {
                kind: Kind::Credentials,
                text: "the server's certificate is from another authority than the one in the credentials".to_owned(),
            },
            Some(rustls::Error::AlertReceived(alert)) => Self {
                kind: Kind::Credentials,
                text: format!("the server refuses the client certificate ({alert:?}): it may have expired, or be from another authority"),
            },
            Some(_) | None => Self { kind: Kind::Server, text: chain(error) },
        }
    }
}

/// The innermost reasons, without the wrappings that say nothing.
fn chain(error: &Error) -> String {
    let mut causes = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.dedup();
    // The outer layers repeat the inner ones, or say "client error".
    causes.pop().unwrap_or_else(|| error.to_string())
}

/// The TLS error at the bottom of a failed connection; it travels inside an I/O error.
fn tls_error(error: &Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(tls);
        }
        next = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_a_failure_is_told_in_one_line() {
        let status = serde_json::json!({"code": 500, "message": "no\nquorum \u{1b}[2J", "status": "Failure"});
        let error = Error::Api(serde_json::from_value(status).unwrap());
        assert_eq!(Failure::of(&error).to_string(), "500: no quorum  [2J");
    }
}
