//! The ledger, as it is and as it grows.

use cardea_host::exit::{Code, Failure};
use cardea_proto::{
    admin::{AdminAnswer, AdminQuery, AuditFilter},
    ledger::{Entry, Revision},
};

use crate::{
    args::{AuditCommand, DecisionKind, Search},
    connection::unexpected,
    view::audit as view,
};

use super::{Session, export, verify};

pub(super) fn run(command: &AuditCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        AuditCommand::Tail { lines, follow } => {
            let entries = query(Revision(0), *lines, session)?;
            if !follow {
                return view::entries(&entries, session.settings.format, session.console);
            }
            for entry in &entries {
                view::followed(entry, session.settings.format, session.console)?;
            }
            let last = match entries.last() {
                Some(entry) => entry.revision,
                // Without a line to show, the last one still says where to go on.
                None => query(Revision(0), 1, session)?
                    .last()
                    .map(|entry| entry.revision)
                    .unwrap_or_default(),
            };
            let (format, console) = (session.settings.format, &mut *session.console);
            session.connection.follow(last.next(), |entry| {
                view::followed(&entry, format, console)?;
                Ok(!console.is_closed())
            })
        }
        AuditCommand::Show { revision } => {
            let entries = query(*revision, 1, session)?;
            let entry = entries
                .iter()
                .find(|entry| entry.revision == *revision)
                .ok_or_else(|| {
                    Failure::of(
                        Code::Failed,
                        &format!("revision {revision}"),
                        "there is no such entry",
                        "See the last ones with: cardeactl audit tail",
                    )
                })?;
            view::entry(entry, session.settings.format, session.console)
        }
        AuditCommand::Search(what) => search(what, session),
        AuditCommand::Who { app, at } => {
            let query = AdminQuery::AuditWho {
                app: app.clone(),
                at: *at,
            };
            let AdminAnswer::Who { revision, rows } = session.connection.query(query)? else {
                return Err(unexpected());
            };
            view::who(revision, &rows, session.settings.format, session.console)
        }
        AuditCommand::Export(what) => export::run(what, session),
        AuditCommand::Checkpoint => {
            let answer = session.connection.query(AdminQuery::Checkpoint)?;
            let AdminAnswer::Checkpoint(note) = answer else {
                return Err(unexpected());
            };
            session.console.data(&note)
        }
        // Needs no controller, and so no session.
        AuditCommand::Verify(what) => verify::run(what, &session.settings, session.console),
    }
}

fn search(what: &Search, session: &mut Session<'_>) -> Result<(), Failure> {
    let filter = AuditFilter {
        device: what.device.clone(),
        user: what.user.clone(),
        app: what.app.clone(),
        actor: what.actor.clone(),
        from: what.from,
        to: what.to,
        allowed: what.decision.map(|kind| kind == DecisionKind::Allow),
    };
    let limit = what.lines;
    let query = AdminQuery::AuditSearch { filter, limit };
    let AdminAnswer::Entries(entries) = session.connection.query(query)? else {
        return Err(unexpected());
    };
    view::entries(&entries, session.settings.format, session.console)
}

pub(super) fn query(
    from: Revision,
    limit: u32,
    session: &mut Session<'_>,
) -> Result<Vec<Entry>, Failure> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let answer = session
        .connection
        .query(AdminQuery::Audit { from, limit })?;
    let AdminAnswer::Entries(entries) = answer else {
        return Err(unexpected());
    };
    Ok(entries)
}
