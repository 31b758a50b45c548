//! The relays that a grant names.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use cardea_credential::ticket::verify_ticket;
use cardea_proto::{
    access::Rendezvous, codec::Blob, enroll::EnrollAnswer, identity::Role, message::ToNode,
    relay::Ticket,
};

use crate::{
    Input, Settings,
    settings::CLOCK_SKEW_MAX,
    testing::{Bench, sane_facts, settings},
};

#[test]
fn both_ends_know_the_same_relays_in_the_same_order_with_tickets_for_each() {
    let (mut bench, device, connector) = Bench::office_with(three());
    bench.request(&device, 1, "wiki");
    bench.settle();
    let admit = bench.admit_at(&connector);
    // What dies between the two halves of a grant changes neither.
    silence(&mut bench, 0, true);
    bench.admit(&connector, &admit);
    bench.settle();
    let granted = bench.granted_at(&device);
    let (theirs, ours) = (&admit.rendezvous, &granted.rendezvous);
    assert_eq!(places(theirs), [relay(1), relay(2), relay(3)]);
    assert_eq!(places(theirs), places(ours));
    let mut handles = BTreeSet::new();
    for (theirs, ours) in tickets(&bench, theirs).iter().zip(tickets(&bench, ours)) {
        assert_eq!(theirs.tunnel, ours.tunnel);
        handles.extend([theirs.handle, ours.handle]);
    }
    assert_eq!(handles.len(), 6, "none is of use at another relay");
}

#[test]
fn a_grant_begins_with_a_relay_that_answers_and_goes_back_to_the_preferred_one() {
    let (mut bench, device, connector) = Bench::office_with(three());
    silence(&mut bench, 0, true);
    silence(&mut bench, 2, true);
    let granted = bench.open(&device, &connector, "wiki");
    assert_eq!(places(&granted.rendezvous), [relay(2), relay(1), relay(3)]);
    silence(&mut bench, 0, false);
    let granted = bench.open(&device, &connector, "wiki");
    assert_eq!(places(&granted.rendezvous), [relay(1), relay(2), relay(3)]);
}

#[test]
fn an_extension_has_tickets_for_the_places_of_the_grant_whatever_relays_do_meanwhile() {
    let (mut bench, mut device, connector) = Bench::office_with(three());
    let granted = bench.open(&device, &connector, "wiki");
    silence(&mut bench, 0, true);
    for _ in 0..8 {
        bench.pass(Duration::from_secs(20));
        bench.report(&mut device, sane_facts());
    }
    let told = bench.take(&device);
    let is_extend = |message: &&ToNode| matches!(message, ToNode::Extend(_));
    let Some(ToNode::Extend(extend)) = told.iter().find(is_extend) else {
        panic!("not extended");
    };
    let before = tickets(&bench, &granted.rendezvous);
    let standby = extend.standby.iter();
    let after = std::iter::once(&extend.ticket).chain(standby);
    let after: Vec<Ticket> = after.map(|ticket| read(&bench, ticket)).collect();
    assert_eq!(after.len(), 3);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.tunnel, before.handle), (after.tunnel, after.handle));
        assert!(after.not_after > before.not_after);
    }
}

#[test]
fn a_certificate_comes_with_a_ticket_for_every_relay_that_leads_to_nobody() {
    let (mut bench, device, connector) = Bench::office_with(three());
    let granted = bench.open(&device, &connector, "wiki");
    let secret = bench.invite_device("bob", &[]);
    let (_, request) = bench.enroll_request(Role::Device, &secret, "other");
    let EnrollAnswer::Enrolled(enrolled) = bench.enroll(request) else {
        panic!("refused");
    };
    let certificate = enrolled.certificate;
    assert_eq!(certificate.relays.len(), 3);
    let of_tunnels = tickets(&bench, &granted.rendezvous);
    for relay in &certificate.relays {
        let ticket = read(&bench, &relay.ticket);
        assert!(of_tunnels.iter().all(|other| other.tunnel != ticket.tunnel));
        let more = ticket.not_after.since(certificate.not_after);
        assert_eq!(more, CLOCK_SKEW_MAX);
    }
}

fn three() -> Settings {
    Settings {
        relays: (1..=3).map(relay).collect(),
        ..settings()
    }
}

fn relay(last: u8) -> Vec<SocketAddr> {
    vec![SocketAddr::from(([192, 0, 2, last], 7_444))]
}

fn silence(bench: &mut Bench, place: usize, is_silent: bool) {
    bench.handle(Input::Relay { place, is_silent });
}

fn places(rendezvous: &Rendezvous) -> Vec<Vec<SocketAddr>> {
    let standby = rendezvous.standby.iter().map(|standby| &standby.relay);
    std::iter::once(&rendezvous.relay)
        .chain(standby)
        .cloned()
        .collect()
}

fn tickets(bench: &Bench, rendezvous: &Rendezvous) -> Vec<Ticket> {
    let standby = rendezvous.standby.iter().map(|standby| &standby.ticket);
    let all = std::iter::once(&rendezvous.ticket).chain(standby);
    all.map(|ticket| read(bench, ticket)).collect()
}

fn read(bench: &Bench, ticket: &Blob) -> Ticket {
    let key = bench.controller.world.keys.ticket.public();
    verify_ticket(&key, ticket.as_ref()).unwrap()
}
