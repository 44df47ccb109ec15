//! The virtual addresses.

use std::net::IpAddr;

use vip::Address;

use super::{kubernetes, peers, spread};
use crate::config::file::{self, File};
use crate::config::reader::Reader;
use crate::config::source::Step;
use crate::config::{Election, Interface, Vip};

/// The longest interface name of Linux, in bytes (IFNAMSIZ less the terminating zero).
const INTERFACE_LENGTH_MAX: usize = 15;

/// More addresses than any control plane needs; each costs a netlink message a refresh and frames an announcement.
const ADDRESSES_MAX: usize = 64;

/// The addresses of `vip` and `vips`, each once.
pub(super) fn addresses(reader: &mut Reader<'_>, file: &File) -> Vec<Address> {
    let mut addresses: Vec<Address> = Vec::new();
    if let (Some(_), Some(_)) = (&file.vip, &file.vips) {
        reader.error(
            &["vips".into()],
            "both `vip` and `vips` are given",
            "move the address of `vip` into the list `vips`",
        );
    }
    let prefix = file.vip_cidr.as_ref().and_then(|scalar| {
        let parsed = scalar.0.trim_start_matches('/').parse::<u8>();
        if parsed.is_err() {
            reader.error(
                &["vipCidr".into()],
                format!("`{}` is not a prefix length", scalar.0),
                "write 24 or 32",
            );
        }
        parsed.ok()
    });
    if let Some(text) = &file.vip {
        // An obsolete key's prefix applies where the address has none of its own.
        let whole = match prefix {
            Some(prefix) if !text.contains('/') => format!("{}/{prefix}", text.trim()),
            Some(_) | None => text.clone(),
        };
        address(reader, &["vip".into()], &whole, &mut addresses);
    }
    let listed = file.vips.as_deref().unwrap_or_default();
    if file.vips.is_some() && listed.is_empty() {
        reader.error(&["vips".into()], "`vips` is empty", "list at least one address, or remove the key");
    }
    if listed.len() > ADDRESSES_MAX {
        reader.error(
            &["vips".into()],
            format!("{} addresses are more than {ADDRESSES_MAX}", listed.len()),
            "one address is enough for a control plane: is this the right list?",
        );
        return addresses;
    }
    for (index, text) in listed.iter().enumerate() {
        address(reader, &["vips".into(), index.into()], text, &mut addresses);
    }
    addresses
}

fn address(reader: &mut Reader<'_>, path: &[Step], text: &str, addresses: &mut Vec<Address>) {
    match text.trim().parse::<Address>() {
        Ok(address) if addresses.iter().any(|other| other.ip == address.ip) => {
            reader.error(path, format!("{} is listed twice", address.ip), "list every address once");
        }
        Ok(address) => addresses.push(address),
        Err(error) => reader.error(
            path,
            error.to_string(),
            "write a free address of the hosts' subnet, such as 10.0.0.162, 10.0.0.162/24 or fd00::162/64",
        ),
    }
}

/// The addresses with their interface and election, or each with one of its own; `None` after an error was noted.
pub(super) fn vips(
    reader: &mut Reader<'_>,
    file: &File,
    node: &str,
    addresses: Vec<Address>,
) -> Option<Vec<Vip>> {
    let interface = interface(reader, file);
    let groups = match file.election {
        Some(file::Election::Kubernetes) => {
            spread::refused_by_lease(reader, file);
            let ips: Vec<IpAddr> = addresses.iter().map(|address| address.ip).collect();
            kubernetes::election(reader, file, node, &ips)
                .map(|election| (vec![(addresses.clone(), Election::Kubernetes(election))], None))
        }
        Some(file::Election::Peers | file::Election::None) | None => {
            kubernetes::without_effect(reader, file);
            let tie_break = peers::tie_break(reader, file, &addresses);
            let election = peers::election(reader, file, node, tie_break);
            let groups = election.and_then(|election| spread::groups(reader, file, election, &addresses));
            let peers = |(addresses, election)| (addresses, Election::Peers(election));
            groups.map(|groups| (groups.into_iter().map(peers).collect(), tie_break))
        }
    };
    let hosts =
        file.local_peer.iter().map(|peer| (peer, vec![Step::Key("localPeer"), "address".into()])).chain(
            file.remote_peers
                .iter()
                .flatten()
                .enumerate()
                .map(|(index, peer)| (peer, vec![Step::Key("remotePeers"), index.into(), "address".into()])),
        );
    for (peer, path) in hosts {
        let own = peer.address.trim().parse::<IpAddr>();
        if own.is_ok_and(|own| addresses.iter().any(|address| address.ip == own)) {
            reader.error(
                &path,
                format!("{} is the virtual address, and the own address of `{}`", peer.address, peer.id),
                "the virtual address must be free: choose one that no host has",
            );
        }
    }
    let announce = file.gratuitous_arp.unwrap_or(true);
    if !announce {
        reader.warn(
            &["gratuitousARP".into()],
            "`gratuitousARP: false`: after a move, hosts keep sending to the old owner until their ARP caches expire",
            "write true, or remove the key, unless something else announces the address",
        );
    }
    let refuses_late_hosts = !matches!(file.timing, Some(file::Timing::Custom { .. }));
    let (groups, tie_break): (Vec<_>, _) = groups?;
    let interface = interface?;
    let vip = |(addresses, election)| {
        let interface = interface.clone();
        Vip { interface, addresses, announce, election, tie_break, refuses_late_hosts }
    };
    Some(groups.into_iter().map(vip).collect())
}

fn interface(reader: &mut Reader<'_>, file: &File) -> Option<Interface> {
    let Some(name) = &file.interface else { return Some(Interface::DefaultRoute) };
    let valid = !name.is_empty()
        && name.len() <= INTERFACE_LENGTH_MAX
        && !name.contains(|c: char| c.is_whitespace() || c == '/' || c == ':');
    if !valid {
        reader.error(
            &["interface".into()],
            format!("`{name}` can't be the name of an interface"),
            "write the name as `ip -br address` shows it, at most 15 characters, or leave it out: that of the default route",
        );
        return None;
    }
    Some(Interface::Named(name.clone()))
}
