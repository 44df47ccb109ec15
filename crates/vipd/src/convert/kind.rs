//! What a file is, by what stands in it.

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// keepalived's.
    Keepalived,
    /// haproxy's.
    Haproxy,
    /// nginx's.
    Nginx,
    /// Manifests of Kubernetes.
    Manifest,
    /// vipd's own, or that of kube-vip 0.1.
    Config,
}

/// Words that begin a statement of keepalived, and of nobody else.
const KEEPALIVED: &[&str] = &[
    "global_defs",
    "vrrp_instance",
    "vrrp_script",
    "vrrp_sync_group",
    "virtual_server",
    "virtual_server_group",
    "static_ipaddress",
    "static_routes",
    "vrrp_track_process",
    "vrrp_track_file",
    "virtual_ipaddress",
];
/// The same of haproxy.
const HAPROXY: &[&str] = &["global", "defaults", "frontend", "backend", "listen"];
/// The same of nginx.
const NGINX: &[&str] = &["stream", "upstream", "events", "http", "worker_processes", "error_log", "pid"];
/// Keys at the top of a config.yaml.
const CONFIG: &[&str] =
    &["localPeer", "remotePeers", "vip", "vips", "loadBalancers", "singleNode", "startAsLeader", "election"];

/// Finds out; `None` where it is nothing that is known.
pub(super) fn of(text: &str) -> Option<Kind> {
    let mut counts =
        [(Kind::Keepalived, 0), (Kind::Haproxy, 0), (Kind::Nginx, 0), (Kind::Manifest, 0), (Kind::Config, 0)];
    for line in text.lines() {
        let trimmed = line.trim();
        let first = trimmed
            .split(|c: char| c.is_whitespace() || matches!(c, '{' | ';' | '#' | '!'))
            .next()
            .unwrap_or_default();
        let braces = trimmed.contains('{');
        // nginx has `listen`, too: a line of haproxy's has no such end.
        let ended = trimmed.ends_with(';');
        let at_top = !line.starts_with(char::is_whitespace);
        let key = first.strip_suffix(':').filter(|_| at_top);
        let found = [
            KEEPALIVED.contains(&first),
            HAPROXY.contains(&first) && !braces && !ended,
            NGINX.contains(&first) && (braces || ended),
            key.is_some_and(|key| matches!(key, "apiVersion" | "kind")),
            key.is_some_and(|key| CONFIG.contains(&key))
                || (at_top && CONFIG.iter().any(|key| trimmed.starts_with(&format!("{key}:")))),
        ];
        for ((_, count), found) in counts.iter_mut().zip(found) {
            *count += usize::from(found);
        }
    }
    let best = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (best.1 > 0).then_some(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_content() {
        for (text, kind) in [
            ("! a comment\n\tvrrp_instance VI_1{\n}\n", Kind::Keepalived),
            ("  frontend a\n bind *:1\n", Kind::Haproxy),
            ("stream{\n upstream a { server 10.0.0.1:1; }\n}\n", Kind::Nginx),
            ("stream {\n server {\n  listen 1;\n }\n server {\n  listen 2;\n }\n}\n", Kind::Nginx),
            ("apiVersion: v1\nkind: Pod\n", Kind::Manifest),
            ("vip: 10.0.0.162\n", Kind::Config),
        ] {
            assert_eq!(of(text), Some(kind), "{text}");
        }
        for text in ["", "[Unit]\nDescription=x\n", "hello", "\u{0}\u{1}"] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }
}
