//! What cuts people off says how many, and asks.

use cardea_host::exit::{Code, Failure};
use cardea_proto::admin::{AdminAnswer, AdminChange, AdminQuery};

use crate::{
    config::Settings,
    connection::{Connection, unexpected},
    console::Console,
};

/// Goes on when `change` closes nothing, when it was told to, or when a person says so.
pub(crate) fn confirm(
    change: &AdminChange,
    connection: &mut Connection,
    settings: &Settings,
    console: &mut Console,
) -> Result<(), Failure> {
    let answer = connection.query(AdminQuery::Impact(change.clone()))?;
    let AdminAnswer::Impact { closes } = answer else {
        return Err(unexpected());
    };
    if closes == 0 {
        return Ok(());
    }
    ask(
        &format!("this closes {}", tunnels(closes)),
        settings,
        console,
    )
}

/// Asks a person to go on with what `warning` says.
pub(crate) fn ask(
    warning: &str,
    settings: &Settings,
    console: &mut Console,
) -> Result<(), Failure> {
    if settings.yes {
        console.say(warning);
        return Ok(());
    }
    if !console.is_interactive() {
        return Err(Failure::of(
            Code::Failed,
            "not done",
            warning,
            "There is no terminal to ask at: add --yes to do it anyway",
        ));
    }
    if console.ask(&format!("{warning}; go on?")) {
        Ok(())
    } else {
        Err(Failure::of(
            Code::Failed,
            "not done",
            "you did not say yes",
            "To be asked nothing: --yes",
        ))
    }
}

/// `1 tunnel`, `14 tunnels`.
pub(crate) fn tunnels(count: u32) -> String {
    format!("{count} tunnel{}", if count == 1 { "" } else { "s" })
}
