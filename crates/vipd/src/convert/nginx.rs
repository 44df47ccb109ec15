//! nginx.conf's `stream`, as RKE's nginx-proxy has it: one port on every node that leads to the apiservers.

use std::rc::Rc;

use super::report::{At, Fault, Kind, Report};
use super::setup::{Backend, Balancer, Idle, Setup, host_and_port};
use super::{Text, time};

/// How deep blocks may stand in one another.
const BLOCKS_DEEP_MAX: usize = 16;
/// How many statements a file has.
const STATEMENTS_MAX: usize = 20_000;
/// A number without a unit counts seconds.
const BARE: u64 = 1_000_000;

/// A statement, or a block.
struct Statement {
    at: At,
    words: Vec<String>,
    inner: Vec<Self>,
}

impl Statement {
    fn key(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn value(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }
}

/// Reads a file into the setup.
///
/// # Errors
/// The first thing that is not of nginx's grammar.
pub(super) fn read((file, text): &Text, setup: &mut Setup, report: &mut Report) -> Result<(), Fault> {
    let statements = parse(file, text, report)?;
    let mut found = false;
    for statement in &statements {
        if statement.key() == "stream" {
            found = true;
            report.note(Kind::Carried, &statement.at, &statement.words, "loadBalancers");
            stream(&statement.inner, setup, report)?;
        } else {
            let told = match statement.key() {
                "http" => "vipd passes bytes, and sees nothing of HTTP in them",
                _ => "how the process runs is said by its service or Pod (manifests/)",
            };
            lose(statement, told, report);
        }
    }
    if !found {
        let told = format!("{file} has no `stream` block: what nginx does with HTTP is not vipd's");
        report.tell(Kind::Missing, told);
    }
    Ok(())
}

fn lose(statement: &Statement, told: &str, report: &mut Report) {
    report.note(Kind::Lost, &statement.at, &statement.words, told);
    for inner in &statement.inner {
        lose(inner, told, report);
    }
}

fn stream(statements: &[Statement], setup: &mut Setup, report: &mut Report) -> Result<(), Fault> {
    for statement in statements {
        match statement.key() {
            "server" => server(statement, statements, setup, report)?,
            "upstream" => {}
            "log_format" | "access_log" | "error_log" => {
                lose(statement, "the log is vipd's own; `accessLog: true` tells of each connection", report);
            }
            _ => lose(statement, "is not known to this command, so nothing was made of it", report),
        }
    }
    Ok(())
}

fn server(
    block: &Statement,
    around: &[Statement],
    setup: &mut Setup,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut balancer = Balancer::new("", &block.at, &block.words, 0);
    for line in &block.inner {
        match line.key() {
            "listen" => listen(line, &mut balancer, report)?,
            "proxy_pass" => pass(line, around, &mut balancer, report)?,
            "proxy_timeout" | "proxy_connect_timeout" => timeout(line, &mut balancer, report)?,
            "proxy_protocol" if line.value() == "on" => {
                balancer.proxy_protocol = Some("v1");
                report.note(Kind::Carried, &line.at, &line.words, "proxyProtocol: v1");
            }
            "proxy_next_upstream" | "proxy_next_upstream_tries" | "proxy_next_upstream_timeout" => {
                let told =
                    "another backend is tried after 0.3 s, and each one once, before the client notices";
                report.note(Kind::Changed, &line.at, &line.words, told);
            }
            _ => lose(line, "is not known to this command, so nothing was made of it", report),
        }
    }
    if balancer.port == 0 || balancer.backends.is_empty() {
        report.note(
            Kind::Refused,
            &block.at,
            &block.words,
            "it has no port, or leads to no server that vipd could reach",
        );
        return Ok(());
    }
    report.note(Kind::Carried, &block.at, &block.words, format!("loadBalancers: {}", balancer.name));
    setup.balancers.push(balancer);
    Ok(())
}

fn listen(line: &Statement, balancer: &mut Balancer, report: &mut Report) -> Result<(), Fault> {
    let text = line.value();
    let (host, port) = host_and_port(text).unwrap_or(("*", text));
    let wrong = || {
        Fault::new(
            &line.at,
            format!("`{text}` is no port to listen on"),
            "write 6443, 127.0.0.1:6443 or [::1]:6443",
        )
    };
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let ip = match host {
        "*" | "" => None,
        "localhost" => "127.0.0.1".parse().ok(),
        host => Some(host.parse::<std::net::IpAddr>().map_err(|_| wrong())?),
    };
    for word in line.words.iter().skip(2) {
        match word.as_str() {
            "ssl" => {
                report.note(
                    Kind::Refused,
                    &line.at,
                    &line.words,
                    "TLS ends in the apiservers, and passes through vipd untouched",
                );
                return Ok(());
            }
            "udp" => (balancer.udp, balancer.by_kernel) = (true, true),
            "proxy_protocol" => balancer.accepts_proxy = true,
            other => report.note(Kind::Lost, &line.at, &[other.to_owned()], "vipd has no such screw"),
        }
    }
    if balancer.port != 0 && balancer.port != port {
        report.note(Kind::Refused, &line.at, &line.words, "a load balancer has one port: write one for each");
        return Ok(());
    }
    balancer.port = port;
    balancer.binds.push(ip.filter(|ip| !ip.is_unspecified()));
    report.note(Kind::Carried, &line.at, &line.words, format!("port: {port}"));
    Ok(())
}

fn timeout(line: &Statement, balancer: &mut Balancer, report: &mut Report) -> Result<(), Fault> {
    let text = line.value();
    let millis = time::millis(text, BARE).filter(|millis| *millis > 0);
    let millis = millis.ok_or_else(|| {
        Fault::new(&line.at, format!("`{text}` is not a time"), "write one such as 10m or 30s")
    })?;
    // As for haproxy: watches are silent for longer.
    const IDLE_MIN: u64 = 300_000;
    if line.key() == "proxy_connect_timeout" {
        balancer.connect = Some(millis);
        report.note(Kind::Carried, &line.at, &line.words, format!("connectTimeout: {}", time::text(millis)));
    } else if millis < IDLE_MIN {
        let told = format!(
            "{} of silence would cut watches and `kubectl logs -f`: left at idleTimeout: 1h",
            time::text(millis)
        );
        report.note(Kind::Changed, &line.at, &line.words, told);
    } else {
        balancer.idle = Some(Idle::For(millis));
        report.note(Kind::Carried, &line.at, &line.words, format!("idleTimeout: {}", time::text(millis)));
    }
    Ok(())
}

fn pass(
    line: &Statement,
    around: &[Statement],
    balancer: &mut Balancer,
    report: &mut Report,
) -> Result<(), Fault> {
    let name = line.value();
    if name.is_empty() || name.starts_with('$') {
        report.note(
            Kind::Refused,
            &line.at,
            &line.words,
            "vipd looks at no content: a load balancer has one list of backends",
        );
        return Ok(());
    }
    report.note(Kind::Carried, &line.at, &line.words, "backends");
    balancer.name = name.replace(['[', ']'], "");
    let Some(upstream) = around.iter().find(|block| block.key() == "upstream" && block.value() == name)
    else {
        return backend(line, balancer, report);
    };
    report.note(Kind::Carried, &upstream.at, &upstream.words, "backends");
    for inner in &upstream.inner {
        let note = |report: &mut Report, kind, told: &str| report.note(kind, &inner.at, &inner.words, told);
        match (inner.key(), inner.value()) {
            ("server", _) => backend(inner, balancer, report)?,
            ("least_conn", _) | ("random", "two") => {
                balancer.policy = Some("leastConnections");
                note(report, Kind::Carried, "policy: leastConnections");
            }
            ("hash", "$remote_addr") => {
                balancer.policy = Some("sourceHash");
                note(report, Kind::Carried, "policy: sourceHash");
            }
            ("hash" | "random" | "least_time", _) => {
                note(
                    report,
                    Kind::Changed,
                    "vipd chooses by load, in turn or by source: left at policy: leastConnections",
                );
            }
            _ => lose(inner, "vipd has no such screw", report),
        }
    }
    Ok(())
}

fn backend(line: &Statement, balancer: &mut Balancer, report: &mut Report) -> Result<(), Fault> {
    let text = line.value();
    let wrong = || Fault::new(&line.at, format!("`{text}` has no address and port"), "write 10.0.0.163:6443");
    let (host, port) = host_and_port(text).ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0 && !host.is_empty()).ok_or_else(wrong)?;
    let extra: &[String] = if line.key() == "server" { line.words.get(2..).unwrap_or_default() } else { &[] };
    for word in extra {
        let told = match word.split('=').next().unwrap_or_default() {
            "down" => {
                report.note(Kind::Changed, &line.at, &line.words, "out of use, so not listed");
                return Ok(());
            }
            "max_fails" | "fail_timeout" => {
                "servers are asked for /readyz every second, where nginx waited for clients to fail (`check`)"
            }
            "weight" => "there are no weights: each backend gets its share",
            "backup" => "there are no backends in reserve: it is used like the others",
            _ => "vipd has no such option of a backend",
        };
        report.note(Kind::Changed, &line.at, std::slice::from_ref(word), told);
    }
    if balancer.backends.iter().any(|other| other.host == host && other.port == port) {
        report.note(Kind::Changed, &line.at, &line.words, "listed once");
        return Ok(());
    }
    report.note(Kind::Carried, &line.at, &line.words, "backends");
    let (at, words) = (line.at.clone(), line.words.clone());
    balancer.backends.push(Backend { name: None, host: host.to_owned(), port, at, words });
    Ok(())
}

/// A piece of a file.
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

fn parse(file: &Rc<str>, text: &str, report: &mut Report) -> Result<Vec<Statement>, Fault> {
    let mut open: Vec<Statement> = Vec::new();
    let mut level: Vec<Vec<Statement>> = vec![Vec::new()];
    let mut words: Vec<String> = Vec::new();
    let mut begin = At { file: Rc::clone(file), line: 1 };
    let mut count = 0;
    for (line, token) in tokens(file, text)? {
        let at = At { file: Rc::clone(file), line };
        if words.is_empty() {
            begin = at.clone();
        }
        match token {
            Token::Word(word) => words.push(word),
            Token::End | Token::Open if !words.is_empty() => {
                count += 1;
                if count > STATEMENTS_MAX || open.len() >= BLOCKS_DEEP_MAX {
                    let message = "there is more, or more in one another, than nginx has";
                    return Err(Fault::new(&at, message, "is this the right file?"));
                }
                report.expect(&begin, &words);
                let statement =
                    Statement { at: begin.clone(), words: std::mem::take(&mut words), inner: Vec::new() };
                if matches!(token, Token::Open) {
                    open.push(statement);
                    level.push(Vec::new());
                } else if let Some(level) = level.last_mut() {
                    level.push(statement);
                }
            }
            Token::End => {}
            Token::Open => {
                return Err(Fault::new(&at, "a { follows nothing", "write what the block is before it"));
            }
            Token::Close => {
                let (Some(mut block), true) = (open.pop(), words.is_empty()) else {
                    let message = "a } closes nothing, or a statement that has no end";
                    return Err(Fault::new(&at, message, "write a ; after each statement"));
                };
                block.inner = level.pop().unwrap_or_default();
                if let Some(level) = level.last_mut() {
                    level.push(block);
                }
            }
        }
    }
    match (open.last(), words.is_empty()) {
        (None, true) => Ok(level.pop().unwrap_or_default()),
        (Some(block), _) => {
            let message = format!("the block `{}` is not closed", block.words.join(" "));
            Err(Fault::new(&block.at, message, "add a }"))
        }
        (None, false) => Err(Fault::new(&begin, "a statement has no end", "add a ;")),
    }
}

/// The pieces of a text, with their lines.
fn tokens(file: &Rc<str>, text: &str) -> Result<Vec<(usize, Token)>, Fault> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let begun = line;
        match c {
            '\n' => line += 1,
            '#' => while characters.next_if(|c| *c != '\n').is_some() {},
            ';' => tokens.push((line, Token::End)),
            '{' => tokens.push((line, Token::Open)),
            '}' => tokens.push((line, Token::Close)),
            c if c.is_whitespace() => {}
            quote @ ('"' | '\'') => {
                let mut word = String::new();
                loop {
                    match characters.next() {
                        Some(c) if c == quote => break,
                        Some('\\') => word.extend(characters.next()),
                        Some(c) => {
                            line += usize::from(c == '\n');
                            word.push(c);
                        }
                        None => {
                            let at = At { file: Rc::clone(file), line: begun };
                            let help = format!("add the closing {quote}");
                            return Err(Fault::new(&at, "a quote is not closed", help));
                        }
                    }
                }
                tokens.push((begun, Token::Word(word)));
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) =
                    characters.next_if(|c| !c.is_whitespace() && !matches!(c, ';' | '{' | '}'))
                {
                    word.push(c);
                }
                tokens.push((begun, Token::Word(word)));
            }
        }
    }
    Ok(tokens)
}
