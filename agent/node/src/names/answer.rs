//! Queries and answers as bytes.

use std::net::IpAddr;

use domain::{
    base::{
        Message, MessageBuilder, ParsedName, Question, Rtype, StaticCompressor, Ttl,
        iana::{Class, ExtendedErrorCode, Opcode, OptRcode, Rcode},
        message_builder::{AdditionalBuilder, AnswerBuilder, PushError},
        opt::{ExtendedError, Opt, OptRecord},
        wire::ParseError,
    },
    rdata::{A, Aaaa, Ptr, Soa},
};

use cardea_proto::name::Name;

use super::{AppAddresses, Dns, Names, Owner};

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered with these bytes.
    Answer(Vec<u8>),
    /// It is not ours: whoever is asked otherwise answers it.
    PassOn {
        /// The answer when nobody does.
        failed: Vec<u8>,
    },
    /// It is about a host of an app that has no addresses yet: it is judged again when it has some.
    Give {
        /// The host, in small letters.
        host: Name,
        /// The answer when it gets none.
        failed: Vec<u8>,
    },
    /// It is no query.
    Ignore,
}

impl Names {
    /// What becomes of a query. An answer to a name of ours fits into 512 bytes, so it is never cut short.
    #[must_use]
    pub fn judge(&self, query: &[u8]) -> Verdict {
        let Ok(message) = Message::from_octets(query) else {
            return Verdict::Ignore;
        };
        if message.header().qr() {
            return Verdict::Ignore;
        }
        let answered = self.judge_message(&message);
        answered.unwrap_or(Verdict::Ignore)
    }

    fn judge_message(&self, message: &Message<&[u8]>) -> Result<Verdict, PushError> {
        let reply = Reply { message, opt: None };
        if message.header().opcode() != Opcode::QUERY {
            return Ok(Verdict::Answer(reply.bare(Rcode::NOTIMP)?));
        }
        let (Ok(question), Ok(opt)) = (message.sole_question(), sole_opt(message)) else {
            return Ok(Verdict::Answer(reply.bare(Rcode::FORMERR)?));
        };
        let reply = Reply { message, opt };
        if reply.opt.as_ref().is_some_and(|opt| opt.version() > 0) {
            return reply.bad_version();
        }
        let owner = self.owner(question.qname());
        if owner == Owner::Others {
            return if self.passes_on {
                let failed = reply.failed(ExtendedErrorCode::NO_REACHABLE_AUTHORITY)?;
                Ok(Verdict::PassOn { failed })
            } else {
                reply.refuse(Rcode::REFUSED, ExtendedErrorCode::NOT_AUTHORITATIVE)
            };
        }
        let is_transfer = matches!(question.qtype(), Rtype::AXFR | Rtype::IXFR);
        if question.qclass() != Class::IN || is_transfer {
            return reply.refuse(Rcode::REFUSED, ExtendedErrorCode::NOT_SUPPORTED);
        }
        let is_for_addresses = matches!(question.qtype(), Rtype::A | Rtype::AAAA | Rtype::ANY);
        let bytes = match owner {
            Owner::Host(host) if is_for_addresses => {
                let failed = reply.failed(ExtendedErrorCode::NOT_READY)?;
                return Ok(Verdict::Give { host, failed });
            }
            Owner::Host(_) => self.nothing(&reply, Rcode::NOERROR, &question)?,
            Owner::App(addresses) => self.found(&reply, &question, addresses)?,
            Owner::Address(app) => self.found_app(&reply, &question, app)?,
            Owner::Above => self.nothing(&reply, Rcode::NOERROR, &question)?,
            Owner::Nobody => self.nothing(&reply, Rcode::NXDOMAIN, &question)?,
            Owner::Unknown | Owner::Others => reply.failed(ExtendedErrorCode::NOT_READY)?,
        };
        Ok(Verdict::Answer(bytes))
    }

    /// The addresses of an app; no data of any other type, `HTTPS` and `SVCB` included: what an app
    /// speaks is its own affair.
    fn found(
        &self,
        reply: &Reply<'_>,
        question: &Question<ParsedName<&[u8]>>,
        addresses: AppAddresses,
    ) -> Result<Vec<u8>, PushError> {
        let asked = |kind| question.qtype() == kind || question.qtype() == Rtype::ANY;
        let v4 = asked(Rtype::A).then_some(addresses.v4);
        let v6 = addresses.v6.filter(|_| asked(Rtype::AAAA));
        if v4.is_none() && v6.is_none() {
            return self.nothing(reply, Rcode::NOERROR, question);
        }
        let mut answer = reply.start(Rcode::NOERROR)?;
        answer.header_mut().set_aa(true);
        let name = question.qname();
        if let Some(v4) = v4 {
            answer.push((name, Class::IN, TTL, A::new(v4)))?;
        }
        if let Some(v6) = v6 {
            answer.push((name, Class::IN, TTL, Aaaa::new(v6)))?;
        }
        reply.finish(answer.additional(), None)
    }

    fn found_app(
        &self,
        reply: &Reply<'_>,
        question: &Question<ParsedName<&[u8]>>,
        app: &Dns,
    ) -> Result<Vec<u8>, PushError> {
        if !matches!(question.qtype(), Rtype::PTR | Rtype::ANY) {
            return self.nothing(reply, Rcode::NOERROR, question);
        }
        let mut answer = reply.start(Rcode::NOERROR)?;
        answer.header_mut().set_aa(true);
        answer.push((question.qname(), Class::IN, TTL, Ptr::new(app)))?;
        reply.finish(answer.additional(), None)
    }

    /// No data, or no such name: with the record that says for how long.
    ///
    /// Source: RFC 2308 §3 and §5.
    fn nothing(
        &self,
        reply: &Reply<'_>,
        code: Rcode,
        question: &Question<ParsedName<&[u8]>>,
    ) -> Result<Vec<u8>, PushError> {
        let mut authority = reply.start(code)?.authority();
        authority.header_mut().set_aa(true);
        // There is no server and nobody to write to.
        let soa = Soa::new(
            Dns::root_vec(),
            Dns::root_vec(),
            1.into(),
            Ttl::from_secs(3_600),
            Ttl::from_secs(1_200),
            Ttl::from_secs(604_800),
            TTL_OF_NOTHING,
        );
        match self.domain.as_ref() {
            Some(domain) if self.is_below_domain(question.qname()) => {
                authority.push((domain, Class::IN, TTL_OF_NOTHING, soa))?;
            }
            Some(_) | None => {
                authority.push((question.qname(), Class::IN, TTL_OF_NOTHING, soa))?;
            }
        }
        reply.finish(authority.additional(), None)
    }
}

/// A query that is being answered.
struct Reply<'a> {
    message: &'a Message<&'a [u8]>,
    opt: Option<OptRecord<&'a [u8]>>,
}

type Target = StaticCompressor<Vec<u8>>;

impl Reply<'_> {
    /// With the question as it was asked, letter by letter.
    fn start(&self, code: Rcode) -> Result<AnswerBuilder<Target>, PushError> {
        let mut answer = builder()?.start_answer(self.message, code)?;
        let asked = self.message.header();
        let header = answer.header_mut();
        header.set_ra(true);
        header.set_cd(asked.cd());
        Ok(answer)
    }

    /// Who speaks EDNS is answered in EDNS. Source: RFC 6891 §6.1.1 and §7.
    fn finish(
        &self,
        mut builder: AdditionalBuilder<Target>,
        why: Option<ExtendedErrorCode>,
    ) -> Result<Vec<u8>, PushError> {
        if let Some(asked) = &self.opt {
            builder.opt(|opt| {
                opt.set_udp_payload_size(UDP_BYTES);
                opt.set_dnssec_ok(asked.dnssec_ok());
                match why {
                    Some(why) => opt.push(&ExtendedError::<Vec<u8>>::from(why)),
                    None => Ok(()),
                }
            })?;
        }
        Ok(builder.finish().into_target())
    }

    /// Without the question, which may be none.
    fn bare(&self, code: Rcode) -> Result<Vec<u8>, PushError> {
        let mut builder = builder()?;
        let asked = self.message.header();
        let header = builder.header_mut();
        header.set_id(asked.id());
        header.set_qr(true);
        header.set_opcode(asked.opcode());
        header.set_rd(asked.rd());
        header.set_rcode(code);
        Ok(builder.finish().into_target())
    }

    fn refuse(&self, code: Rcode, why: ExtendedErrorCode) -> Result<Verdict, PushError> {
        let bytes = self.finish(self.start(code)?.additional(), Some(why))?;
        Ok(Verdict::Answer(bytes))
    }

    fn failed(&self, why: ExtendedErrorCode) -> Result<Vec<u8>, PushError> {
        self.finish(self.start(Rcode::SERVFAIL)?.additional(), Some(why))
    }

    fn bad_version(&self) -> Result<Verdict, PushError> {
        let mut builder = self.start(Rcode::NOERROR)?.additional();
        builder.opt(|opt| {
            opt.set_udp_payload_size(UDP_BYTES);
            opt.set_rcode(OptRcode::BADVERS);
            Ok(())
        })?;
        Ok(Verdict::Answer(builder.finish().into_target()))
    }
}

fn builder() -> Result<MessageBuilder<Target>, PushError> {
    MessageBuilder::from_target(StaticCompressor::new(Vec::new())).map_err(|_| PushError::ShortBuf)
}

/// The EDNS record, when there is one; an error when there are several or the message is not whole.
fn sole_opt<'a>(message: &Message<&'a [u8]>) -> Result<Option<OptRecord<&'a [u8]>>, ParseError> {
    let mut found = None;
    for record in message.iter() {
        let (record, _) = record?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let record = record.to_record::<Opt<_>>()?.map(OptRecord::from);
        if found.is_some() || record.is_none() {
            return Err(ParseError::form_error("more than one OPT record"));
        }
        found = record;
    }
    Ok(found)
}

/// A query for the addresses of a name, in one family; `None` for what cannot be a name.
#[must_use]
pub fn query(name: &str, v6: bool, id: u16) -> Option<Vec<u8>> {
    let kind = if v6 { Rtype::AAAA } else { Rtype::A };
    let name: Dns = name.parse().ok()?;
    let mut builder = builder().ok()?;
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, kind)).ok()?;
    Some(builder.finish().into_target())
}

/// The addresses in an answer; `None` when it says that something is wrong, or cannot be read.
#[must_use]
pub fn found(answer: &[u8]) -> Option<Vec<IpAddr>> {
    let message = Message::from_octets(answer).ok()?;
    if message.header().rcode() != Rcode::NOERROR {
        return None;
    }
    let v4 = message.answer().ok()?.limit_to::<A>().flatten();
    let v6 = message.answer().ok()?.limit_to::<Aaaa>().flatten();
    let v4 = v4.map(|record| IpAddr::V4(record.data().addr()));
    Some(
        v4.chain(v6.map(|record| IpAddr::V6(record.data().addr())))
            .collect(),
    )
}

/// Whether an answer says that whoever was asked could not find out.
#[must_use]
pub fn is_failure(answer: &[u8]) -> bool {
    Message::from_octets(answer).is_ok_and(|answer| answer.header().rcode() == Rcode::SERVFAIL)
}

/// A query that is passed on under a number of our own, which others cannot guess from the program's.
#[must_use]
pub fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for (to, from) in bytes.iter_mut().zip(id.to_be_bytes()) {
        *to = from;
    }
    bytes
}

/// The number of a message.
#[must_use]
pub fn id(message: &[u8]) -> Option<u16> {
    message
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))
}

/// Whether a message answers the query: the same number and the same question, which an error may
/// leave out.
#[must_use]
pub fn is_answer(query: &[u8], answer: &[u8]) -> bool {
    let (Ok(query), Ok(answer)) = (Message::from_octets(query), Message::from_octets(answer))
    else {
        return false;
    };
    let header = answer.header();
    let is_bare_error = header.qr()
        && header.id() == query.header().id()
        && header.rcode() != Rcode::NOERROR
        && answer.header_counts().qdcount() == 0;
    is_bare_error || answer.is_answer(&query)
}

/// How long an answer may be kept: addresses stay, but not longer than this process.
const TTL: Ttl = Ttl::from_secs(5);

/// How long it may be kept that there is nothing: who has just been given an app wants it now.
const TTL_OF_NOTHING: Ttl = Ttl::from_secs(1);

/// Largest datagram that we say we take: it passes every network whole. Source: DNS Flag Day 2020.
const UDP_BYTES: u16 = 1_232;
