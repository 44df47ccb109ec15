//! What is looked at: each with a name that stays, and why it matters. docs/check.md lists them all.

/// Something that is looked at.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Its name, for programs and documents.
    pub(super) id: &'static str,
    /// Why it matters.
    pub(super) why: &'static str,
}

macro_rules! subjects {
    ($($name:ident, $id:literal, $why:literal;)*) => {
        $(pub(super) static $name: Subject = Subject { id: $id, why: $why };)*

        /// All of them.
        #[cfg(test)]
        static ALL: &[&Subject] = &[$(&$name),*];
    };
}

subjects! {
    CONFIGURATION, "configuration", "vipd starts only with a configuration that it understands";
    RUNNING, "vipd-running", "two vipds on a host would be in each other's way";

    CAPABILITY, "capability", "without it vipd can't do its work, and ends at its start";
    MEMORY, "memory-lock", "an owner whose memory has gone to a disk renews its lease too late, and the address moves for nothing";
    WAKE_UPS, "wake-ups", "an election can only be as fast as its host wakes vipd";
    OPEN_FILES, "open-files", "a connection takes two descriptors; when none is left, new clients wait";
    INOTIFY, "inotify", "without it a changed configuration is taken up at SIGHUP only";

    INTERFACE, "interface", "the virtual address is put on this interface; vipd ends if it stays away";
    INTERFACE_UP, "interface-up", "nothing reaches an address on an interface that is down, and such a host does not lead";
    CARRIER, "carrier", "nothing reaches an address on an interface without a link, and such a host does not lead";
    SUBNET, "subnet", "hosts ask by ARP or ND only for addresses of their own subnet; any other is reached by routes alone";
    FOREIGN, "address-foreign", "the address would be answered for here whoever is elected, so vipd refuses to start";
    IN_USE, "address-in-use", "two hosts that answer for one address get some of its connections each";
    SECONDARIES, "promote-secondaries", "the kernel removes all addresses of a subnet with its first one, unless told to promote the next";
    FENCE, "fence", "a host whose vipd is frozen answers for the address on, beside its successor, unless the kernel stops it";

    ARP_IGNORE, "arp-ignore", "with arp_ignore=8 the kernel answers ARP for no address, so nobody finds the owner";
    ARP_FILTER, "arp-filter", "with arp_filter the kernel answers ARP only where it would route to the asker over the same interface";
    RP_FILTER, "rp-filter", "strict reverse-path filtering drops what comes in by another interface than its answer would leave by";
    IPV6, "ipv6", "an IPv6 address can't be put on an interface where IPv6 is disabled";
    FORWARDING, "forwarding", "with `mode: kernel` packets go through this host to the backends, and the kernel forwards none unless told to";
    FORWARD_FIREWALL, "forward-firewall", "with `mode: kernel` packets to the backends pass the forward hook, and what is dropped there reaches none";
    INPUT_FIREWALL, "input-firewall", "clients connect to this port, and what the firewall drops reaches no balancer";
    KERNEL_RULES, "kernel-rules", "`samePort` and `mode: kernel` are rules of nf_tables, without which vipd ends at its start";
    TRANSPARENT, "transparent-source", "the kernel lets a socket have a client's address only with a capability";

    PORT, "port", "vipd ends at its start if it can't listen where clients connect";
    PEER_PORT, "peer-port", "vipd ends at its start if it can't hear its peers";
    WEB_PORT, "web-port", "without it vipd starts, and nobody can scrape its metrics or probe its health there";

    PEER, "peer", "a majority must hear one another, or nobody has the address";
    ROUND_TRIP, "round-trip", "a renewal asks the peers and waits for their answer; if that takes what the lease has left, the address is lost";
    PEER_KEY, "peer-key", "datagrams that don't verify are dropped unread, so the two don't count as each other's voters";
    PEER_SETTINGS, "peer-settings", "members that are set up differently don't vote for one another";
    PEER_FIREWALL, "peer-firewall", "a host that hears no peer neither votes nor leads";
    TIE_BREAK, "tie-break", "of two hosts, one leads without the other only if the tie-break answers it";

    CREDENTIALS, "credentials", "without credentials the API is not asked: no Lease is held, no apiserver is discovered, and no move is told";
    API, "api", "where the API decides who leads, nobody leads from here while it can't be reached";
    RIGHTS, "rights", "the API refuses what it was not told to allow: a Lease that can't be written is never held";
    EVENTS, "events", "`kubectl describe node` shows the moves of the address only where vipd may write Events; moves themselves don't wait for it";
    NODE_LABEL, "node-label", "what selects the owner by its Node's label finds it only where vipd may write that; the address doesn't wait for it";
    CERTIFICATE, "certificate", "clients such as kubectl refuse a server whose certificate is not for the address or name that they connect to";
    ENDPOINT, "endpoint", "clients that are given the name must come to the virtual address by it";
    KUBE_PROXY, "kube-proxy", "in IPVS mode every host has the Services' addresses, and without strictARP it answers ARP for them";
    BACKEND_NAMES, "backend-names", "a backend without an address gets no connections";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    /// The first column of the table in docs/check.md, and the rest of each row.
    fn documented() -> Vec<(String, String)> {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/check.md");
        let text = std::fs::read_to_string(file).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        rows.map(|(id, rest)| (id.to_owned(), rest.to_owned())).collect()
    }

    #[test]
    fn each_is_in_the_document_with_its_reason_and_nothing_else_is() {
        let documented = documented();
        for subject in ALL {
            let rows: Vec<_> = documented.iter().filter(|(id, _)| id == subject.id).collect();
            assert_eq!(rows.len(), 1, "docs/check.md has {} rows for `{}`", rows.len(), subject.id);
            assert!(rows[0].1.contains(subject.why), "docs/check.md, `{}`: {}", subject.id, subject.why);
        }
        for (id, _) in &documented {
            assert!(
                ALL.iter().any(|subject| subject.id == id),
                "docs/check.md has `{id}`, and nothing looks at it"
            );
        }
    }

    #[test]
    fn names_are_in_kebab_case_and_occur_once() {
        for (place, subject) in ALL.iter().enumerate() {
            let plain = |character: char| {
                character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-'
            };
            assert!(subject.id.chars().all(plain), "{}", subject.id);
            assert!(ALL[..place].iter().all(|other| other.id != subject.id), "{} twice", subject.id);
        }
    }
}
