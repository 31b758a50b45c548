//! Requests at the local socket, answered from what this agent knows.

use cardea_proto::{
    local::{LocalAnswer, LocalRequest},
    message::FromNode,
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use super::{Agent, AgentOutbox, access::Step, calls};

impl Agent {
    pub(super) fn local(
        &mut self,
        now: Now,
        call: u64,
        request: LocalRequest,
        out: &mut AgentOutbox,
    ) {
        let answer = match request {
            LocalRequest::Up => Some(self.up(now, out)),
            LocalRequest::Down => Some(self.down(now, out)),
            LocalRequest::Status => Some(LocalAnswer::Status(Box::new(self.status(now)))),
            LocalRequest::Apps => Some(LocalAnswer::Apps(self.app_statuses(now))),
            LocalRequest::Explain(app) => self.explain(now, call, app, out),
            LocalRequest::Posture => self.posture(now, call, out),
            LocalRequest::Forward { .. }
            | LocalRequest::Proxy { .. }
            | LocalRequest::RestoreDns
            | LocalRequest::Netcheck => Some(LocalAnswer::Refused(Refusal::new(
                RefusalCode::Invalid,
                "this agent has no sockets",
            ))),
        };
        if let Some(answer) = answer {
            out.answers.push_back((call, answer));
        }
    }

    /// What this device reports, with the controller's last verdict.
    pub(super) fn posture_answer(&self, now: Now) -> LocalAnswer {
        LocalAnswer::Posture {
            report: self.posture.shown(now),
            verdict: self.posture.verdict().cloned(),
        }
    }

    fn up(&mut self, now: Now, out: &mut AgentOutbox) -> LocalAnswer {
        if !self.channel.is_wanted() {
            self.collect(out);
            self.channel.start(now, &mut out.node);
        }
        let address = self.channel.controller_view().address;
        LocalAnswer::Done(if self.channel.is_ready() {
            format!("connected to {address}")
        } else {
            format!("connecting to {address}")
        })
    }

    /// Every tunnel goes before the channel does, and the controller hears of it.
    fn down(&mut self, now: Now, out: &mut AgentOutbox) -> LocalAnswer {
        let closed = self.apps.held().count();
        let refusal = Refusal::new(RefusalCode::Unreachable, "this device is disconnected")
            .with_next("Connect: cardea up");
        for app in self.apps.names() {
            self.step(now, &app, Step::Cut(refusal.clone()), None, out);
        }
        self.channel.stop(now, &mut out.node);
        let noun = if closed == 1 { "tunnel" } else { "tunnels" };
        LocalAnswer::Done(format!("disconnected, {closed} {noun} closed"))
    }

    fn explain(
        &mut self,
        now: Now,
        call: u64,
        app: Name,
        out: &mut AgentOutbox,
    ) -> Option<LocalAnswer> {
        if !self.channel.is_ready() {
            return Some(LocalAnswer::Refused(self.channel.unreachable()));
        }
        if !self.calls.has_room() {
            return Some(LocalAnswer::Refused(calls::busy()));
        }
        self.requests += 1;
        let request = self.requests;
        self.calls.explain(now.instant, request, call);
        // The rules are about the app, whichever host of it somebody means.
        let app = self.apps.view(&app).map_or(app, |view| view.name.clone());
        out.node
            .messages
            .push_back(FromNode::Explain { request, app });
        None
    }

    fn posture(&mut self, now: Now, call: u64, out: &mut AgentOutbox) -> Option<LocalAnswer> {
        if !self.calls.has_room() {
            return Some(LocalAnswer::Refused(calls::busy()));
        }
        let number = self.collect(out);
        self.calls.posture(now.instant, call, number);
        None
    }
}
