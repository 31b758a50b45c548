//! How answers look: as a table for people, as JSON and YAML for programs.

use cardea_host::exit::{Code, Failure};
use cardea_proto::{
    admin::{AdminAnswer, AdminQuery},
    refusal::RefusalCode,
};
use serde::Serialize;

use crate::{
    args::Format,
    connection::{Connection, Done, unexpected},
    console::Console,
    table,
    text::did_you_mean,
};

mod access;
pub(crate) mod audit;
pub(crate) mod export;
mod inventory;
pub(crate) mod policy;
mod status;

pub(crate) use status::status;

/// One of many of a kind, which `ls` lists and `show` shows.
pub(crate) trait Row: Serialize + Sized {
    /// What one is called.
    const KIND: &'static str;
    /// The heading of the list.
    const HEADING: &'static [&'static str];
    /// Asks for all of them.
    const QUERY: AdminQuery;

    /// The rows in the answer to that.
    fn of(answer: AdminAnswer) -> Option<Vec<Self>>;
    /// Its id.
    fn id(&self) -> String;
    /// Its name.
    fn name(&self) -> String;
    /// Its line in the list.
    fn cells(&self) -> Vec<String>;
    /// All of it.
    fn fields(&self) -> Vec<(&'static str, String)>;
}

/// The part of every implementation that is the same but for its names.
macro_rules! rows_of {
    ($kind:literal, $variant:ident) => {
        const KIND: &'static str = $kind;
        const QUERY: AdminQuery = AdminQuery::$variant;

        fn of(answer: AdminAnswer) -> Option<Vec<Self>> {
            let AdminAnswer::$variant(rows) = answer else {
                return None;
            };
            Some(rows)
        }

        fn id(&self) -> String {
            self.id.to_string()
        }

        fn name(&self) -> String {
            self.name.to_string()
        }
    };
}

use rows_of;

/// All rows of a kind.
pub(crate) fn rows<R: Row>(connection: &mut Connection) -> Result<Vec<R>, Failure> {
    R::of(connection.query(R::QUERY)?).ok_or_else(unexpected)
}

/// Prints a list.
pub(crate) fn list<R: Row>(
    rows: &[R],
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    if format == Format::Table {
        if rows.is_empty() {
            console.say(&format!("no {}s", R::KIND));
            return Ok(());
        }
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        return console.data(&table::table(R::HEADING, &cells));
    }
    data(&rows, format, console)
}

/// Prints one row.
pub(crate) fn show<R: Row>(row: &R, format: Format, console: &mut Console) -> Result<(), Failure> {
    if format == Format::Table {
        return console.data(&table::fields(&row.fields()));
    }
    data(row, format, console)
}

/// The one row with this id or name.
pub(crate) fn find<'a, R: Row>(rows: &'a [R], wanted: &str) -> Result<&'a R, Failure> {
    if let Some(row) = rows.iter().find(|row| row.id() == wanted) {
        return Ok(row);
    }
    let mut named = rows.iter().filter(|row| row.name() == wanted);
    match (named.next(), named.next()) {
        (Some(row), None) => Ok(row),
        (Some(_), Some(_)) => Err(Failure::of(
            Code::Failed,
            &format!("{} {wanted}", R::KIND),
            "there are several of this name",
            &format!("Name one by its id: cardeactl {} ls", R::KIND),
        )),
        (None, _) => {
            let names: Vec<String> = rows.iter().map(Row::name).collect();
            let hint = did_you_mean(wanted, names.iter().map(String::as_str));
            let stop = if hint.is_empty() { "." } else { "" };
            Err(Failure {
                code: RefusalCode::NotFound.exit_code(),
                message: format!(
                    "no {kind} {wanted:?}{hint}{stop} List them with: cardeactl {kind} ls",
                    kind = R::KIND,
                ),
            })
        }
    }
}

/// Prints what a change came to: talk for people, an object for programs.
pub(crate) fn done(done: &Done, format: Format, console: &mut Console) -> Result<(), Failure> {
    if format != Format::Table {
        return data(done, format, console);
    }
    let closed = match done.closed {
        0 => String::new(),
        count => format!(", closed {}", crate::confirm::tunnels(count)),
    };
    console.say(&format!(
        "{} (revision {}{closed})",
        done.message, done.revision
    ));
    Ok(())
}

/// Prints a value for programs.
pub(crate) fn data<T: Serialize>(
    value: &T,
    format: Format,
    console: &mut Console,
) -> Result<(), Failure> {
    let ours = |error: String| Failure::of(Code::Failed, "output", error, "");
    // Through JSON, so that both formats have the same names.
    let value = serde_json::to_value(value).map_err(|error| ours(error.to_string()))?;
    let text = match format {
        Format::Yaml => {
            serde_yaml_ng::to_string(&value).map_err(|error| ours(error.to_string()))?
        }
        Format::Json | Format::Table => {
            serde_json::to_string_pretty(&value).map_err(|error| ours(error.to_string()))?
        }
    };
    console.data(&text)
}

/// `yes` or `no`.
fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// The text, or nothing.
fn or_none(text: Option<&String>) -> String {
    text.cloned().unwrap_or_default()
}

/// Several, one a line.
fn lines<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join("\n")
}

/// Several in one cell.
fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests;
