//! Who else is on the segment: owners of the addresses, the other hosts and how long they take to answer, the tie-break.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;

use super::examination::{Situation, of_peers};
use super::{Finding, about};
use crate::config::{Election, TieBreak, Vip};
use crate::daemon::tie_break::gateway;
use crate::exit;

/// How long an owner of the address, or a peer, has to answer.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// Asks all at the same time.
pub(super) async fn look(situation: &Situation<'_>) -> Vec<Finding> {
    let (strangers, peers, tie_break, voters) =
        tokio::join!(strangers(situation), peers(situation), tie_break(situation), voters(situation));
    let mut findings = strangers;
    findings.extend(peers);
    findings.extend(tie_break);
    findings.extend(voters);
    findings
}

/// Does anybody else answer for an address?
async fn strangers(situation: &Situation<'_>) -> Vec<Finding> {
    let Some(name) = &situation.link else { return Vec::new() };
    // The host that has it is known to a vipd that runs.
    if situation.running.is_some() {
        return Vec::new();
    }
    join_all(situation.virtual_ips().into_iter().map(|ip| stranger(ip, name))).await
}

async fn stranger(ip: IpAddr, name: &str) -> Finding {
    match vip::probe::owner_of(name, ip, ANSWER_TIME).await {
        Ok(None) => Finding::good(&about::IN_USE, format!("nobody answers for {ip}")),
        Ok(Some(mac)) => Finding::doubtful(
            &about::IN_USE,
            format!("{ip} is in use: {} answers for it", vip::Station(mac)),
            "if that is another vipd of this cluster, or what vipd replaces, all is well; otherwise choose a free address",
        ),
        Err(error) => Finding::unseen(
            &about::IN_USE,
            format!("failed to ask the segment who has {ip}: {error}"),
            "run as root, or with the capability NET_RAW",
        ),
    }
}

/// Does what decides between two hosts answer? And fast enough: a look at the segment lasts half a heartbeat.
async fn tie_break(situation: &Situation<'_>) -> Option<Finding> {
    let (name, vip) = (situation.link.as_deref()?, situation.config.vips.first()?);
    let rule = vip.tie_break?;
    let address = match rule {
        TieBreak::Address(ip) => Some(ip),
        TieBreak::Gateway => gateway(name, &vip.addresses).await,
    };
    let Some(ip) = address else {
        return Some(Finding::bad(
            &about::TIE_BREAK,
            exit::CONFIG,
            format!("`tieBreak: gateway`, and no default route leads over {name}"),
            "write the address of a host of the subnet that is always up: `tieBreak: ADDRESS`",
        ));
    };
    let on_link = vip::linux::interface_addresses(name).await.unwrap_or_default();
    if !on_link.iter().any(|own| own.contains(ip)) {
        return Some(Finding::bad(
            &about::TIE_BREAK,
            exit::CONFIG,
            format!("the tie-break {ip} is in no subnet of {name}: it can't be asked by ARP or ND"),
            "write `gateway`, or the address of a host of the same subnet",
        ));
    }
    Some(ask_tie_break(ip, vip, name).await)
}

async fn ask_tie_break(ip: IpAddr, vip: &Vip, name: &str) -> Finding {
    let virtual_ips: Vec<IpAddr> = vip.addresses.iter().map(|address| address.ip).collect();
    let Election::Peers(election) = &vip.election else {
        return Finding::good(&about::TIE_BREAK, "a Lease decides, and no tie-break");
    };
    let lasting = election.quorum.timing.heartbeat() / 2;
    let looked = async {
        let mut watch = vip::probe::Watch::open(name, &virtual_ips, ip, leader::clock::asleep).await?;
        // The first answer may take longer: both sides' neighbour caches are empty.
        let (first, second) = (watch.look(ANSWER_TIME).await?, watch.look(lasting).await?);
        Ok::<_, vip::Error>((first.answered, second.answered))
    };
    match looked.await {
        Ok((_, true)) => Finding::good(&about::TIE_BREAK, format!("the tie-break {ip} answers")),
        Ok((true, false)) => Finding::doubtful(
            &about::TIE_BREAK,
            format!("the tie-break {ip} answers, but not within {lasting:?}"),
            "a longer heartbeat gives it more time (`timing: relaxed`); or choose another host",
        ),
        Ok((false, false)) => Finding::doubtful(
            &about::TIE_BREAK,
            format!("the tie-break {ip} does not answer: neither host would lead without the other"),
            "is it up, and on the same subnet?",
        ),
        Err(error) => Finding::unseen(
            &about::TIE_BREAK,
            format!("failed to ask for the tie-break {ip}: {error}"),
            "run as root, or with the capability NET_RAW",
        ),
    }
}

/// Are the peers there, and how far away? A host answers ARP or ND; its vipd has the port open.
async fn peers(situation: &Situation<'_>) -> Vec<Finding> {
    let Some(name) = &situation.link else { return Vec::new() };
    let elections: Vec<_> = situation.config.vips.iter().filter_map(of_peers).collect();
    let Some((election, further)) = elections.split_first() else { return Vec::new() };
    let first = election.peers.iter().map(|(id, address)| async move {
        if election.quorum.witnesses.contains(id) {
            // It may be anywhere that UDP reaches.
            return vec![peer_vipd(id, *address, false).await];
        }
        peer(id, *address, &election.quorum.timing, name).await
    });
    let mut findings = join_all(first).await.into_iter().flatten().collect::<Vec<_>>();
    // The same hosts, at the ports of the other elections.
    let further = further.iter().flat_map(|election| &election.peers);
    findings.extend(join_all(further.map(|(id, address)| peer_vipd(id, *address, false))).await);
    findings
}

async fn peer(id: &leader::NodeId, address: SocketAddr, timing: &leader::Timing, name: &str) -> Vec<Finding> {
    match vip::probe::owner_of(name, address.ip(), ANSWER_TIME).await {
        Ok(Some(_)) => {
            let (open, far) =
                tokio::join!(peer_vipd(id, address, true), round_trip(id, address, timing, name));
            [Some(open), far].into_iter().flatten().collect()
        }
        Ok(None) => vec![Finding::doubtful(
            &about::PEER,
            format!("the peer {id} does not answer: no host has {} on this segment", address.ip()),
            "is it up, is its address right, and is it on the same subnet?",
        )],
        Err(error) => vec![Finding::unseen(
            &about::PEER,
            format!("failed to ask for the peer {id} at {address}: {error}"),
            "run as root, or with the capability NET_RAW",
        )],
    }
}

/// How long a question by ARP or ND and its answer are on their way, beside what the election's timing permits. No clock but this host's
/// takes part.
async fn round_trip(
    id: &leader::NodeId,
    address: SocketAddr,
    timing: &leader::Timing,
    name: &str,
) -> Option<Finding> {
    // That it is there was seen; a failure now is one of the network that it shows again.
    let took = vip::probe::round_trip(name, address.ip(), ANSWER_TIME).await.ok()??;
    let permitted = timing.round_trip();
    let (lease, heartbeat) = (timing.lease(), timing.heartbeat());
    let text = format!(
        "the peer {id} answers within {took:.1?}; {permitted:.1?} are left of a lease of {lease:?} with a heartbeat of {heartbeat:?}"
    );
    Some(if took <= permitted {
        Finding::good(&about::ROUND_TRIP, text)
    } else {
        let help = "write a slower `timing` on every host (`timing: default`, `timing: relaxed`), or look at the network between them";
        Finding::doubtful(&about::ROUND_TRIP, text, help)
    })
}

/// The members that this host is a witness for, wherever they are.
async fn voters(situation: &Situation<'_>) -> Vec<Finding> {
    let voters = situation.config.witnesses.iter().flat_map(|witness| &witness.election.peers);
    join_all(voters.map(|(id, address)| peer_vipd(id, *address, false))).await
}

/// A closed port is answered by ICMP, which the socket reports; an open one takes a byte in silence, and so does a host that is not
/// there, where it was not seen before.
async fn peer_vipd(id: &leader::NodeId, address: SocketAddr, seen: bool) -> Finding {
    let unspecified =
        if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let ask = async {
        let socket = tokio::net::UdpSocket::bind((unspecified, 0)).await?;
        socket.connect(address).await?;
        socket.send(&[0]).await?;
        let mut answer = [0; 1];
        socket.recv(&mut answer).await
    };
    match tokio::time::timeout(ANSWER_TIME, ask).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Finding::good(
            &about::PEER,
            format!("the peer {id} is up; no vipd runs there yet ({address} is closed)"),
        ),
        Ok(Err(error)) => Finding::doubtful(
            &about::PEER,
            format!("the peer {id} can't be reached at {address}: {error}"),
            format!(
                "let UDP port {} through between the hosts, and look at `ip route get {}`",
                address.port(),
                address.ip()
            ),
        ),
        Ok(Ok(_)) | Err(_) if seen => {
            Finding::good(&about::PEER, format!("the peer {id} is up, and {address} is open"))
        }
        Ok(Ok(_)) | Err(_) => {
            let text = format!(
                "{address} of the peer {id} is not known to be closed; `vipd status` will show whether it is heard"
            );
            Finding::good(&about::PEER, text)
        }
    }
}
