//! Collects findings while a [`super::file::File`] is turned into a [`super::Config`].

use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Severity};
use super::source::{Source, Step};
use super::value;

/// The largest file that a key names, in bytes, as of the configuration itself.
const FILE_MAX: u64 = 1 << 20;

/// Spare room of a file's buffer, in bytes, by which the standard library reads to the end without a buffer of its own.
const SPARE: usize = 64;

/// Where the values come from, and all that was found wrong with them so far.
pub(super) struct Reader<'a> {
    source: &'a Source,
    findings: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    /// Begins without findings.
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, findings: Vec::new() }
    }

    /// Notes an error at the value that `path` leads to.
    pub(super) fn error(&mut self, path: &[Step], message: impl Into<String>, help: &str) {
        self.findings.push(self.source.diagnose(Severity::Error, path, message.into(), help));
    }

    /// Notes a warning at the value that `path` leads to.
    pub(super) fn warn(&mut self, path: &[Step], message: impl Into<String>, help: &str) {
        self.findings.push(self.source.diagnose(Severity::Warning, path, message.into(), help));
    }

    /// All findings, in the order of the file.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.findings.sort_by_key(|finding| finding.place.map(|place| (place.line, place.column)));
        self.findings
    }

    /// An address of a host.
    pub(super) fn ip(&mut self, path: &[Step], text: &str) -> Option<IpAddr> {
        match text.trim().parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                self.error(
                    path,
                    format!("`{text}` is not the address of a host"),
                    "write the host's own address, such as 10.0.0.163",
                );
                None
            }
            Ok(ip) => Some(ip),
            Err(_) => {
                self.error(
                    path,
                    format!("`{text}` is not an IP address"),
                    "write an address such as 10.0.0.163 or fd00::163; a name would need a DNS server that may be behind the VIP",
                );
                None
            }
        }
    }

    /// A port that something listens on.
    pub(super) fn port(&mut self, path: &[Step], port: u16) -> Option<u16> {
        if port == 0 {
            self.error(path, "0 is not a port", "write a port from 1 to 65535");
            return None;
        }
        Some(port)
    }

    /// A duration that may be left out.
    pub(super) fn duration(&mut self, path: &[Step], text: Option<&str>, default: Duration) -> Duration {
        text.map_or(Some(default), |text| self.try_duration(path, text)).unwrap_or(default)
    }

    /// A duration; `None` after an error was noted.
    pub(super) fn try_duration(&mut self, path: &[Step], text: &str) -> Option<Duration> {
        value::duration(text).map_err(|message| self.error(path, message, value::DURATION_HELP)).ok()
    }

    /// A duration that may be left out, or be `none`.
    pub(super) fn duration_or_none(
        &mut self,
        path: &[Step],
        text: Option<&str>,
        default: Option<Duration>,
        help: &str,
    ) -> Option<Duration> {
        match text {
            None => default,
            Some("none") => None,
            Some(text) => value::duration(text).map_err(|message| self.error(path, message, help)).ok(),
        }
    }

    /// The content of a file that the configuration names.
    pub(super) fn file(&mut self, path: &[Step], file: &str, what: &str) -> Option<Vec<u8>> {
        let read = || {
            let file = fs::File::open(file)?;
            // Room for all of it at once, and more than what asks for the end: a buffer that grows leaves copies behind, and it may be a
            // secret.
            let size = usize::try_from(file.metadata()?.len().min(FILE_MAX)).unwrap_or(0);
            let mut bytes = Vec::with_capacity(size + SPARE);
            file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        match read() {
            Ok(bytes) if u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_MAX) => Some(bytes),
            Ok(_) => {
                self.error(
                    path,
                    format!("the {what} {file} has more than 1 MiB"),
                    "name the file itself: certificates and keys have some kilobytes",
                );
                None
            }
            Err(error) => {
                self.error(
                    path,
                    format!("failed to read the {what} {file}: {error}"),
                    "the file must exist and vipd's user must be able to read it; in a pod it must be mounted",
                );
                None
            }
        }
    }

    /// Whether an error was found.
    pub(super) fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}
