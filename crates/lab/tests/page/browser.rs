//! A real browser, driven by the WebDriver protocol (<https://www.w3.org/TR/webdriver2/>) from within its network namespace.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use lab::namespace::Namespace;
use lab::process::{Launch, Process};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Where the driver listens, on the loopback of its namespace.
const PORT: u16 = 9515;

/// A browser may take long to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one window. It ends with this.
pub(crate) struct Browser {
    namespace: Arc<Namespace>,
    _driver: Process,
    session: String,
}

impl Browser {
    /// Starts a browser on a host; what it keeps is in this folder.
    pub(crate) async fn start(namespace: &Arc<Namespace>, folder: &Path) -> Result<Self> {
        let mut launch =
            Launch::new("chromedriver", Path::new("/usr/bin/chromedriver"), [format!("--port={PORT}")]);
        launch.env = vec![("HOME", folder.display().to_string()), ("TMPDIR", folder.display().to_string())];
        let driver = launch.start(namespace, folder).context("chromedriver can't be started")?;
        let mut browser = Self { namespace: Arc::clone(namespace), _driver: driver, session: String::new() };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = browser.request("GET", "/status", &Value::Null) {
            ensure!(Instant::now() < deadline, "chromedriver does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let options = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            // As root there is no sandbox; the namespace has no way out.
            "goog:chromeOptions": {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]},
        }}});
        let session = browser.request("POST", "/session", &options)?;
        browser.session = session["sessionId"].as_str().context("a session has a name")?.to_owned();
        Ok(browser)
    }

    /// Opens a page, and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) -> Result<()> {
        self.command("POST", "/url", &json!({"url": url})).map(drop)
    }

    /// Runs a function body in the page; gives what it returns.
    pub(crate) fn run(&self, script: &str) -> Result<Value> {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Makes the window so large, in CSS pixels, and tells the page which colours its reader likes.
    pub(crate) fn look(&self, (width, height): (u32, u32), scheme: &str) -> Result<()> {
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}),
        )?;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.cdp("Emulation.setEmulatedMedia", &json!({"features": features}))
    }

    /// A picture of the window, as PNG.
    pub(crate) fn picture(&self) -> Result<Vec<u8>> {
        let picture = self.command("GET", "/screenshot", &Value::Null)?;
        let text = picture.as_str().context("a picture is told as text")?;
        Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
    }

    /// What the browser complained of since this was asked last: scripts that failed, and what the page's policy forbids.
    pub(crate) fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.command("POST", "/se/log", &json!({"type": "browser"}))?;
        let entries = entries.as_array().context("a log is a list")?;
        Ok(entries.iter().map(|entry| entry["message"].to_string()).collect())
    }

    fn cdp(&self, command: &str, params: &Value) -> Result<()> {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params})).map(drop)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.request(method, &format!("/session/{}{path}", self.session), body)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (head, body) = self.namespace.within(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let length = body.len();
            write!(
                stream,
                "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{PORT}\r\ncontent-length: {length}\r\n\r\n{body}"
            )?;
            answer(&mut BufReader::new(stream))
        })?;
        let value: Value = serde_json::from_str(&body).with_context(|| format!("{head}\n{body}"))?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{method} {path}: {}", value["value"]["message"]);
        }
        Ok(value["value"].clone())
    }
}

/// Reads an answer's head and body. The driver keeps the connection, so its length is what it says.
fn answer(stream: &mut impl BufRead) -> Result<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head)? > 0, "the answer ends within its head: {head}");
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: u64 = length.with_context(|| format!("an answer of no length: {head}"))?.trim().parse()?;
    let mut body = String::new();
    stream.take(length).read_to_string(&mut body)?;
    Ok((head, body))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser is the driver's child, and goes with its session.
        let _ = self.command("DELETE", "", &Value::Null);
    }
}
