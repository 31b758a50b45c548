//! What each command does.

use cardea_host::exit::Failure;
use cardea_proto::admin::{AdminAnswer, AdminChange, AdminQuery};

use crate::{
    args::{AuditCommand, Cli, Command, Explain, Format, GrantCommand, Rule, TunnelCommand},
    config::Settings,
    confirm,
    connection::{Connection, unexpected},
    console::Console,
    pages,
    view::{self, Row},
};

mod audit;
mod backup;
mod export;
mod inventory;
mod invite;
mod policy;
mod restore;
mod verify;

/// What an admin must have thought of before a ledger goes on from an earlier point.
const ROLLBACK: &str = "codes used, devices blocked and grants revoked since then are forgotten, \
    and grants are given again";

/// Runs a command line.
///
/// # Errors
/// [`Failure`]: what happened, why, what to type next, and the exit code.
pub fn run(cli: Cli, console: &mut Console) -> Result<(), Failure> {
    match cli.command {
        Command::Completion { shell } => return pages::completion(shell, console),
        Command::Man { dir } => return pages::manual(dir.as_deref(), console),
        Command::Invite(_)
        | Command::Site(_)
        | Command::Connector(_)
        | Command::Device(_)
        | Command::User(_)
        | Command::App(_)
        | Command::Allow(_)
        | Command::Disallow(_)
        | Command::Policy(_)
        | Command::Explain(_)
        | Command::Grant(_)
        | Command::Tunnel(_)
        | Command::Audit(_)
        | Command::Backup { .. }
        | Command::Restore { .. }
        | Command::Status { .. } => {}
    }
    let settings = Settings::of(&cli.global)?;
    // What needs no controller.
    if let Command::Audit(AuditCommand::Verify(what)) = &cli.command {
        return verify::run(what, &settings, console);
    }
    if let Command::Backup { file } = &cli.command {
        return backup::backup(file, &settings, console);
    }
    if let Command::Restore { file, unlock } = &cli.command {
        return restore::restore(file, unlock.as_ref(), &settings, console);
    }
    let connection = Connection::open(&settings)?;
    let mut session = Session {
        settings,
        connection,
        console,
    };
    match cli.command {
        Command::Invite(command) => invite::run(command, &mut session),
        Command::Site(command) => inventory::site(command, &mut session),
        Command::Connector(command) => inventory::connector(command, &mut session),
        Command::Device(command) => inventory::device(command, &mut session),
        Command::User(command) => inventory::user(command, &mut session),
        Command::App(command) => inventory::app(command, &mut session),
        Command::Allow(rule) => session.change(AdminChange::Allow(link(rule))),
        Command::Disallow(rule) => session.cutting_change(AdminChange::Disallow(link(rule))),
        Command::Policy(command) => policy::run(command, &mut session),
        Command::Explain(what) => explain(what, &mut session),
        Command::Grant(command) => grant(command, &mut session),
        Command::Tunnel(TunnelCommand::Ls) => session.list::<cardea_proto::admin::TunnelRow>(),
        Command::Audit(command) => audit::run(&command, &mut session),
        Command::Status {
            acknowledge_rollback: false,
        } => status(&mut session),
        Command::Status {
            acknowledge_rollback: true,
        } => {
            confirm::ask(ROLLBACK, &session.settings, session.console)?;
            session.change(AdminChange::RollbackAcknowledge)
        }
        Command::Completion { .. }
        | Command::Man { .. }
        | Command::Backup { .. }
        | Command::Restore { .. } => Ok(()),
    }
}

/// A command that talks to a controller.
struct Session<'a> {
    settings: Settings,
    connection: Connection,
    console: &'a mut Console,
}

impl Session<'_> {
    const fn format(&self) -> Format {
        self.settings.format
    }

    /// Has a change done that cuts nobody off.
    fn change(&mut self, change: AdminChange) -> Result<(), Failure> {
        let done = self.connection.change(change, &self.settings.key)?;
        view::done(&done, self.settings.format, self.console)
    }

    /// Has a change done after telling what it closes.
    fn cutting_change(&mut self, change: AdminChange) -> Result<(), Failure> {
        confirm::confirm(&change, &mut self.connection, &self.settings, self.console)?;
        self.change(change)
    }

    fn list<R: Row>(&mut self) -> Result<(), Failure> {
        let rows = view::rows::<R>(&mut self.connection)?;
        view::list(&rows, self.settings.format, self.console)
    }

    fn show<R: Row>(&mut self, wanted: &str) -> Result<(), Failure> {
        let rows = view::rows::<R>(&mut self.connection)?;
        view::show(
            view::find(&rows, wanted)?,
            self.settings.format,
            self.console,
        )
    }
}

fn link(rule: Rule) -> cardea_proto::ledger::Link {
    cardea_proto::ledger::Link {
        principal: rule.principal,
        app: rule.app,
    }
}

fn explain(what: Explain, session: &mut Session<'_>) -> Result<(), Failure> {
    let Explain { user, device, app } = what;
    let answer = session
        .connection
        .query(AdminQuery::Explain { user, device, app })?;
    let AdminAnswer::Decision(decision) = answer else {
        return Err(unexpected());
    };
    if session.format() == Format::Table {
        return session.console.data(&decision.to_string());
    }
    view::data(&decision, session.settings.format, session.console)
}

fn grant(command: GrantCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    use cardea_proto::admin::GrantRow;
    match command {
        GrantCommand::Ls => session.list::<GrantRow>(),
        GrantCommand::Show { grant } => session.show::<GrantRow>(&grant),
        GrantCommand::Revoke { grant } => {
            let id = match grant.parse() {
                Ok(id) => id,
                Err(_) => {
                    let rows = view::rows::<GrantRow>(&mut session.connection)?;
                    view::find(&rows, &grant)?.id
                }
            };
            session.cutting_change(AdminChange::GrantRevoke(id))
        }
    }
}

fn status(session: &mut Session<'_>) -> Result<(), Failure> {
    let answer = session.connection.query(AdminQuery::Status)?;
    let AdminAnswer::Status(status) = answer else {
        return Err(unexpected());
    };
    view::status(&status, session.settings.format, session.console)
}

#[cfg(test)]
mod tests;
