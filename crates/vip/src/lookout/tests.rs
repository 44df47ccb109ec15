use super::*;
use std::net::Ipv6Addr;

const MINE: Mac = [2, 0, 0, 0, 0, 5];
const OTHER: Mac = [2, 0, 0, 0, 0, 9];
const SMALLER: Mac = [2, 0, 0, 0, 0, 1];
const GATEWAY: Mac = [2, 0, 0, 0, 0, 7];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 162);
const TIE_BREAK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 163);
const LASTING: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
fn origin() -> Instant {
    Instant::now()
}

fn lookout() -> Lookout {
    Lookout::new(MINE, Some(OWN.into()), &[VIP.into()], TIE_BREAK.into())
}

fn answer() -> arp::Repr {
    arp::Repr {
        source: GATEWAY,
        destination: MINE,
        operation: arp::Operation::Reply,
        sender_mac: GATEWAY,
        sender_ip: TIE_BREAK,
        target_mac: MINE,
        target_ip: OWN,
    }
}

/// A look in which these frames come.
fn look(lookout: &mut Lookout, now: Instant, frames: &[Vec<u8>]) -> Look {
    lookout.ask(LASTING, now);
    frames.iter().for_each(|frame| lookout.hear(frame));
    lookout.conclude().unwrap()
}

#[test]
fn it_asks_for_the_tie_break_by_its_own_address_and_for_the_first_virtual_ip_of_each_family_by_probes() {
    let vip6: Ipv6Addr = "fd00::162".parse().unwrap();
    let addresses = [VIP.into(), Ipv4Addr::new(10, 0, 0, 170).into(), vip6.into()];
    let mut lookout = Lookout::new(MINE, Some(OWN.into()), &addresses, TIE_BREAK.into());
    let concerned: Vec<IpAddr> = lookout.concerns().collect();
    assert_eq!(concerned, [VIP.into(), vip6.into(), IpAddr::from(TIE_BREAK)], "answers are about the same");
    let asked: Vec<Vec<u8>> = lookout.ask(LASTING, origin()).into_iter().map(|(_, frame)| frame).collect();
    let question = arp::Repr { sender_ip: OWN, ..arp::Repr::probe(MINE, TIE_BREAK) };
    let expected = [
        question.emit().to_vec(),
        arp::Repr::probe(MINE, VIP).emit().to_vec(),
        ndp::Repr::probe(MINE, vip6).emit(),
    ];
    assert_eq!(asked, expected);
}

#[test]
fn an_answer_to_this_node_shows_the_tie_break_and_nothing_else_does() {
    let now = origin();
    let seen = |frame: arp::Repr| look(&mut lookout(), now, &[frame.emit().to_vec()]).answered;
    assert!(seen(answer()));
    assert!(!seen(arp::Repr { target_mac: OTHER, ..answer() }), "it answers another");
    assert!(!seen(arp::Repr { operation: arp::Operation::Request, ..answer() }), "it asks");
    assert!(!seen(arp::Repr::gratuitous_reply(GATEWAY, TIE_BREAK)), "it announces");
    assert!(!seen(arp::Repr { sender_ip: OWN, ..answer() }), "another answers");
    assert!(!look(&mut lookout(), now, &[]).answered);
}

#[test]
fn whoever_claims_a_virtual_ip_is_its_owner() {
    let now = origin();
    let claims = [
        arp::Repr { sender_mac: OTHER, sender_ip: VIP, ..answer() },
        arp::Repr::gratuitous_request(OTHER, VIP),
        arp::Repr { sender_ip: VIP, ..arp::Repr::probe(OTHER, OWN) },
    ];
    for claim in claims {
        let look = look(&mut lookout(), now, &[answer().emit().to_vec(), claim.emit().to_vec()]);
        assert_eq!((look.answered, look.owner), (true, Some(OTHER)));
    }
    let own = look(&mut lookout(), now, &[arp::Repr::gratuitous_request(MINE, VIP).emit().to_vec()]);
    assert_eq!(own.owner, None, "it hears itself");
}

#[test]
fn of_two_that_look_the_one_with_the_smaller_hardware_address_comes_first() {
    let now = origin();
    let contested = |frame: Vec<u8>| look(&mut lookout(), now, &[frame]).contested;
    assert!(contested(arp::Repr::probe(SMALLER, VIP).emit().to_vec()));
    assert!(!contested(arp::Repr::probe(OTHER, VIP).emit().to_vec()));
    assert!(!contested(arp::Repr::probe(SMALLER, TIE_BREAK).emit().to_vec()));
    let client = arp::Repr { sender_ip: OWN, ..arp::Repr::probe(SMALLER, VIP) };
    assert!(!contested(client.emit().to_vec()), "a client that asks for the address is no rival");
}

#[test]
fn who_sees_no_tie_break_does_not_ask_for_the_virtual_ips() {
    let (mut lookout, now) = (lookout(), origin());
    assert!(!look(&mut lookout, now, &[]).answered);
    assert_eq!(lookout.ask(LASTING, now + LASTING).len(), 1, "the tie-break alone");
    lookout.hear(&answer().emit());
    let look = lookout.conclude().unwrap();
    assert!(look.answered && !look.whole, "nobody was asked whether the address has an owner");
    assert_eq!(lookout.ask(LASTING, now + 2 * LASTING).len(), 2);
    lookout.hear(&answer().emit());
    assert!(lookout.conclude().unwrap().whole);
}

#[test]
fn an_answer_is_counted_for_the_oldest_question_that_has_none() {
    let (mut lookout, now) = (lookout(), origin());
    look(&mut lookout, now, &[]);
    // It may be a late answer to the first question, so no more is made of it.
    let second = look(&mut lookout, now + LASTING, &[answer().emit().to_vec()]);
    assert_eq!(second.asked, now);
    let third = look(&mut lookout, now + 2 * LASTING, &[answer().emit().to_vec()]);
    assert_eq!((third.answered, third.asked), (true, now + LASTING));
    // What is as old as two looks is not answered any more.
    look(&mut lookout, now + 3 * LASTING, &[]);
    look(&mut lookout, now + 9 * LASTING, &[answer().emit().to_vec()]);
    let last = look(&mut lookout, now + 10 * LASTING, &[answer().emit().to_vec()]);
    assert_eq!(last.asked, now + 10 * LASTING);
}

#[test]
fn a_question_is_open_for_two_looks_and_not_a_moment_longer() {
    let now = origin();
    for (pause, counted_for) in
        [(2 * LASTING - Duration::from_nanos(1), now), (2 * LASTING, now + 2 * LASTING)]
    {
        let mut lookout = lookout();
        look(&mut lookout, now, &[]);
        let second = look(&mut lookout, now + pause, &[answer().emit().to_vec()]);
        assert_eq!((second.answered, second.asked), (true, counted_for));
    }
}

#[test]
fn an_ipv6_tie_break_is_asked_by_an_address_that_it_answers_to() {
    let [own, gateway, vip]: [Ipv6Addr; 3] =
        ["fe80::5", "fe80::1", "fd00::162"].map(|text| text.parse().unwrap());
    let mut lookout = Lookout::new(MINE, Some(own.into()), &[vip.into()], gateway.into());
    let answer = |destination, solicited| {
        let message = ndp::Message::Advertisement {
            target: gateway,
            router: true,
            solicited,
            replace: true,
            link_layer: Some(GATEWAY),
        };
        let all = ndp::Repr::unsolicited_advertisement(GATEWAY, gateway);
        ndp::Repr { destination, message, ..all }.emit()
    };
    let now = origin();
    assert!(look(&mut lookout, now, &[answer(own, true)]).answered);
    assert!(!look(&mut lookout, now, &[answer(own, false)]).answered);
    assert!(!look(&mut lookout, now, &[answer(vip, true)]).answered);
    // The owner answers this node as the gateway does, and is not the gateway.
    let message = ndp::Message::Advertisement {
        target: vip,
        router: false,
        solicited: true,
        replace: true,
        link_layer: Some(OTHER),
    };
    let theirs = ndp::Repr { destination: own, message, ..ndp::Repr::unsolicited_advertisement(OTHER, vip) };
    let heard = look(&mut lookout, now, &[theirs.emit()]);
    assert_eq!((heard.answered, heard.owner), (false, Some(OTHER)));
    let mut sourceless = Lookout::new(MINE, None, &[vip.into()], gateway.into());
    assert_eq!(sourceless.ask(LASTING, now).len(), 1, "no question that could not be answered to it");
    let owned = look(&mut lookout, now, &[ndp::Repr::unsolicited_advertisement(OTHER, vip).emit()]);
    assert_eq!(owned.owner, Some(OTHER));
    lookout.there = true;
    assert!(look(&mut lookout, now, &[ndp::Repr::probe(SMALLER, vip).emit()]).contested);
    let of_a_client = ndp::Repr::solicitation(SMALLER, "fe80::77".parse().unwrap(), vip).emit();
    assert!(!look(&mut lookout, now, &[of_a_client]).contested, "a client that asks is no rival");
    assert!(!look(&mut lookout, now, &[ndp::Repr::probe(SMALLER, gateway).emit()]).contested);
}
