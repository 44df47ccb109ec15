//! The label that the owner's Node has: kube-vip's, so that what selects by it goes on doing so.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Its key.
pub(super) const KEY: &str = "kube-vip.io/has-ip";

/// Its value: an IPv4 address as it is written, an IPv6 address as 32 hexadecimal digits, since a label's value has no colons.
pub(super) fn value(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.octets().iter().fold(String::new(), |mut text, octet| {
            // Writing to a string can't fail.
            let _ = write!(text, "{octet:02x}");
            text
        }),
    }
}

/// Whether a node that has the label should lose it: this one without the address, any other while this one has it. An owner that died
/// left it behind, and its successor knows.
pub(super) fn should_go(node: &str, me: &str, has_it: bool) -> bool {
    (node == me) != has_it
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_one_that_a_label_may_have() {
        assert_eq!(value("10.0.0.9".parse().unwrap()), "10.0.0.9");
        assert_eq!(value("fd00::9".parse().unwrap()), "fd000000000000000000000000000009");
    }

    #[test]
    fn the_owner_keeps_its_own_and_takes_it_off_all_others() {
        let left = |has_it| -> Vec<&str> {
            ["a", "b", "c"].into_iter().filter(|node| !should_go(node, "b", has_it)).collect()
        };
        assert_eq!(left(true), ["b"]);
        // Others' are others' while this node isn't the owner.
        assert_eq!(left(false), ["a", "c"]);
    }
}
