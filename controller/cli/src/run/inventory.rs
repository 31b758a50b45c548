//! Sites, connectors, devices, people and applications.

use cardea_host::exit::Failure;
use cardea_proto::{
    admin::{AdminChange, AppPatch, AppRow, ConnectorRow, DeviceRow, SiteRow, UserRow},
    app::AppSpec,
};

use crate::args::{
    AppAdd, AppCommand, AppFields, ConnectorCommand, DeviceCommand, SiteCommand, UserCommand,
};

use super::Session;

pub(super) fn site(command: SiteCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        SiteCommand::Add { name } => session.change(AdminChange::SiteAdd(name)),
        SiteCommand::Ls => session.list::<SiteRow>(),
        SiteCommand::Show { name } => session.show::<SiteRow>(&name),
        SiteCommand::Rm { name } => session.change(AdminChange::SiteRemove(name)),
    }
}

pub(super) fn connector(
    command: ConnectorCommand,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    match command {
        ConnectorCommand::Ls => session.list::<ConnectorRow>(),
        ConnectorCommand::Show { connector } => session.show::<ConnectorRow>(&connector),
        ConnectorCommand::Rm { connector } => {
            session.cutting_change(AdminChange::ConnectorRemove(connector))
        }
    }
}

pub(super) fn device(command: DeviceCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        DeviceCommand::Ls => session.list::<DeviceRow>(),
        DeviceCommand::Show { device } => session.show::<DeviceRow>(&device),
        DeviceCommand::Block { device } => session.cutting_change(AdminChange::DeviceBlock(device)),
        DeviceCommand::Unblock { device } => session.change(AdminChange::DeviceUnblock(device)),
        DeviceCommand::Rm { device } => session.cutting_change(AdminChange::DeviceRemove(device)),
    }
}

pub(super) fn user(command: UserCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        UserCommand::Ls => session.list::<UserRow>(),
        UserCommand::Show { user } => session.show::<UserRow>(&user),
        UserCommand::Set {
            user,
            groups,
            no_groups: _,
        } => session.cutting_change(AdminChange::UserSet {
            name: user,
            groups: groups.into_iter().collect(),
        }),
    }
}

pub(super) fn app(command: AppCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        AppCommand::Add(add) => session.change(added(add)),
        AppCommand::Ls => session.list::<AppRow>(),
        AppCommand::Show { app } => session.show::<AppRow>(&app),
        AppCommand::Set(set) => session.cutting_change(AdminChange::AppSet {
            name: set.app,
            patch: patch(set.fields),
        }),
        AppCommand::Rm { app } => session.cutting_change(AdminChange::AppRemove(app)),
    }
}

fn added(add: AppAdd) -> AdminChange {
    AdminChange::AppAdd {
        spec: AppSpec {
            name: add.app,
            site: add.site,
            targets: add.targets,
            names: add.names,
            transport: add.transport,
            labels: add
                .labels
                .into_iter()
                .map(|label| (label.key, label.value))
                .collect(),
            host_scoped: add.allow_host_scoped,
        },
        allow: add.allow,
    }
}

/// What was given is new, what was not stays.
fn patch(set: AppFields) -> AppPatch {
    let given = |is_given: bool, host_scoped: bool| is_given.then_some(host_scoped);
    AppPatch {
        targets: (!set.targets.is_empty()).then_some(set.targets),
        names: (set.no_names || !set.names.is_empty()).then_some(set.names),
        transport: set.transport,
        labels: (set.no_labels || !set.labels.is_empty()).then(|| {
            set.labels
                .into_iter()
                .map(|label| (label.key, label.value))
                .collect()
        }),
        host_scoped: given(set.allow_host_scoped, true).or(given(set.no_host_scoped, false)),
    }
}
