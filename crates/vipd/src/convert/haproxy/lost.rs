//! What haproxy can say and vipd has nothing for: data, not code.

/// Beginnings of a line, and what is said of it.
type Table = &'static [(&'static [&'static str], &'static str)];

const UNKNOWN: &str = "is not known to this command, so nothing was made of it";
const PROCESS: &str = "how the process runs is said by its service or Pod (manifests/)";
const TUNED: &str = "vipd has no such screw";
const TLS: &str = "TLS ends in the apiservers, and passes through vipd untouched";
const HTTP: &str = "vipd passes bytes, and sees nothing of HTTP in them";
const CHOICE: &str = "vipd looks at no content: a load balancer has one list of backends";
const SHOWN: &str = "`vipd status` shows it, and `metrics: \":2112\"` serves figures (docs/metrics.md)";
const LOGGED: &str = "the form of the log is vipd's own (`--log-format`); it goes to standard error";
const KEPT: &str = "vipd does so by itself";

/// In every section.
const LINES: Table = &[
    (
        &[
            "daemon",
            "user",
            "group",
            "uid",
            "gid",
            "chroot",
            "pidfile",
            "master-worker",
            "mworker-max-reloads",
            "nbproc",
        ],
        PROCESS,
    ),
    (
        &[
            "cpu-map",
            "cpu-policy",
            "bind-process",
            "thread-groups",
            "ulimit-n",
            "localpeer",
            "node",
            "description",
            "set-dumpable",
        ],
        PROCESS,
    ),
    (
        &[
            "setenv",
            "presetenv",
            "resetenv",
            "unsetenv",
            "lua-load",
            "lua-load-per-thread",
            "lua-prepend-path",
            "module-load",
        ],
        PROCESS,
    ),
    (
        &[
            "maxsslconn",
            "maxsslrate",
            "maxsessrate",
            "maxconnrate",
            "maxcomprate",
            "maxpipes",
            "maxzlibmem",
            "fd-hard-limit",
        ],
        TUNED,
    ),
    (
        &[
            "tune.",
            "noepoll",
            "nopoll",
            "nosplice",
            "nogetaddrinfo",
            "noreuseport",
            "busy-polling",
            "spread-checks",
            "zero-warning",
        ],
        TUNED,
    ),
    (
        &[
            "no option",
            "no log",
            "quiet",
            "debug",
            "fullconn",
            "backlog",
            "grace",
            "enabled",
            "hash-balance-factor",
            "id ",
        ],
        TUNED,
    ),
    (&["ssl-", "ca-base", "crt-base", "issuers-chain-path", "httpclient.", "option ssl-hello-chk"], TLS),
    (&["stats "], SHOWN),
    (
        &[
            "log ",
            "log-format",
            "log-format-sd",
            "log-send-hostname",
            "log-tag",
            "error-log-format",
            "unique-id-",
        ],
        LOGGED,
    ),
    (
        &[
            "option httplog",
            "option tcplog",
            "option httpslog",
            "option dontlog",
            "option log-",
            "option logasap",
        ],
        LOGGED,
    ),
    (
        &[
            "option forwardfor",
            "option http-",
            "option httpclose",
            "option originalto",
            "option accept-",
            "option h1-",
        ],
        HTTP,
    ),
    (
        &[
            "http-request",
            "http-response",
            "http-after-response",
            "http-error",
            "http-reuse",
            "http-send-name-header",
        ],
        HTTP,
    ),
    (
        &[
            "errorfile",
            "errorfiles",
            "errorloc",
            "compression",
            "filter",
            "monitor-uri",
            "monitor fail",
            "redirect",
            "capture",
        ],
        HTTP,
    ),
    (
        &[
            "timeout http-",
            "timeout tarpit",
            "cookie",
            "dynamic-cookie-key",
            "appsession",
            "rspadd",
            "reqadd",
            "option disable-h2",
        ],
        HTTP,
    ),
    (&["acl ", "use-server", "tcp-request", "tcp-response", "persist", "declare", "quic-initial"], CHOICE),
    (&["stick", "stick-table", "email-alert", "option persist", "force-persist", "ignore-persist"], CHOICE),
    (
        &["timeout queue"],
        "no client waits for a backend: `maxConnections` lets further ones wait before they are accepted",
    ),
    (
        &["timeout client-fin", "timeout server-fin"],
        "a connection of which one side has ended goes on as long as the other speaks, until `idleTimeout`",
    ),
    (
        &["option redispatch", "retries", "retry-on"],
        "another backend is tried after 0.3 s, and each one once, before the client notices",
    ),
    (&["option tcpka", "option clitcpka", "option srvtcpka", "clitcpka-", "srvtcpka-"], KEPT),
    (
        &[
            "option splice-",
            "option tcp-smart-",
            "option nolinger",
            "option independent-streams",
            "option contstats",
        ],
        TUNED,
    ),
    (
        &[
            "option socket-stats",
            "option abortonclose",
            "option allbackups",
            "option prefer-last-server",
            "option idle-",
        ],
        TUNED,
    ),
    (
        &[
            "external-check",
            "option external-check",
            "option mysql-check",
            "option pgsql-check",
            "option redis-check",
        ],
        "vipd runs no program, and asks apiservers alone: see `check` in docs/configuration.md",
    ),
    (
        &["option smtpchk", "option ldap-check", "option spop-check", "option tcp-check", "tcp-check"],
        "vipd's check is a connection, or a question by HTTPS: see `check` in docs/configuration.md",
    ),
    (
        &["http-check"],
        "vipd's own question counts: 200 is ready, and so are 401 and 403 where no backend lets strangers ask",
    ),
    (
        &["source "],
        "connections to backends come from the host's own address; `transparentSource` for the clients'",
    ),
    (
        &["rate-limit", "load-server-state-from-file", "server-state-file", "server-state-base", "hash-type"],
        TUNED,
    ),
];

/// Of a `bind` line.
pub(super) const BIND: &[(&str, usize)] = &[
    ("v4v6", 0),
    ("v6only", 0),
    ("transparent", 0),
    ("defer-accept", 0),
    ("tfo", 0),
    ("mss", 1),
    ("backlog", 1),
    ("maxconn", 1),
    ("nice", 1),
    ("name", 1),
    ("id", 1),
    ("process", 1),
    ("thread", 1),
    ("interface", 1),
    ("namespace", 1),
    ("level", 1),
    ("mode", 1),
    ("user", 1),
    ("group", 1),
    ("uid", 1),
    ("gid", 1),
    ("tcp-ut", 1),
    ("shards", 1),
    ("proto", 1),
    ("severity-output", 1),
];

/// Of a `server` line, with how many values follow.
pub(super) const SERVER: &[(&str, usize)] = &[
    ("maxconn", 1),
    ("maxqueue", 1),
    ("minconn", 1),
    ("cookie", 1),
    ("id", 1),
    ("track", 1),
    ("observe", 1),
    ("on-error", 1),
    ("on-marked-down", 1),
    ("on-marked-up", 1),
    ("error-limit", 1),
    ("fastinter", 1),
    ("downinter", 1),
    ("addr", 1),
    ("port", 1),
    ("agent-check", 0),
    ("agent-send", 1),
    ("agent-inter", 1),
    ("agent-addr", 1),
    ("agent-port", 1),
    ("init-addr", 1),
    ("resolvers", 1),
    ("resolve-prefer", 1),
    ("resolve-net", 1),
    ("resolve-opts", 1),
    ("source", 1),
    ("usesrc", 1),
    ("interface", 1),
    ("sni", 1),
    ("check-sni", 1),
    ("alpn", 1),
    ("check-alpn", 1),
    ("verify", 1),
    ("verifyhost", 1),
    ("ca-file", 1),
    ("crt", 1),
    ("crl-file", 1),
    ("ciphers", 1),
    ("ciphersuites", 1),
    ("ssl-min-ver", 1),
    ("ssl-max-ver", 1),
    ("force-tlsv12", 0),
    ("no-sslv3", 0),
    ("no-tlsv10", 0),
    ("no-tlsv11", 0),
    ("no-ssl-reuse", 0),
    ("tcp-ut", 1),
    ("tfo", 0),
    ("proto", 1),
    ("check-proto", 1),
    ("pool-max-conn", 1),
    ("pool-purge-delay", 1),
    ("pool-low-conn", 1),
    ("max-reuse", 1),
    ("redir", 1),
    ("namespace", 1),
    ("non-stick", 0),
    ("enabled", 0),
    ("check-via-socks4", 0),
    ("socks4", 1),
    ("ws", 1),
    ("log-proto", 1),
    ("stick", 0),
    ("no-check", 0),
    ("no-backup", 0),
    ("check-send-proxy", 0),
    ("proxy-v2-options", 1),
    ("set-proxy-v2-tlv-fmt", 1),
    ("log-bufsize", 1),
    ("no-send-proxy", 0),
    ("no-check-ssl", 0),
    ("allow-0rtt", 0),
];

/// What is said of a line.
pub(super) fn why(words: &[String]) -> &'static str {
    let text = format!("{} ", words.join(" "));
    let found =
        LINES.iter().find(|(beginnings, _)| beginnings.iter().any(|beginning| text.starts_with(beginning)));
    found.map_or(UNKNOWN, |(_, why)| why)
}
