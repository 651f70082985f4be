//! Source servers: registered, heard from, listed, deleted.

use serde_json::{Value, json};

use super::filter::{Filters, page};
use super::{Answer, answer};
use crate::app::{App, Call};
use crate::clock;
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::records::{Key, Source, SourceInternal};
use crate::schema::{self, version_numbers};
use crate::state::{SOURCE_ACTIONS, SourceEvent, SourceStatus, SourceStep};
use crate::world::{Transaction, World};

fn missing(id: &str) -> ApiError {
    ApiError::new(
        Code::InvalidLiveMigrateSourceServerId,
        format!("there is no source server {id}"),
    )
}

/// A refusal by the state table.
fn refused(source: &Source, code: Code) -> ApiError {
    ApiError::new(
        code,
        format!(
            "{} is {}: {}",
            source.source_server_id,
            source.status.as_str(),
            code.meaning()
        ),
    )
}

/// Lets an event happen to a source.
///
/// # Errors
///
/// The code of the state table.
pub(super) fn happen(source: &mut Source, event: SourceEvent) -> ApiResult<()> {
    match source.status.on(event) {
        SourceStep::Go(status) => {
            source.status = status;
            Ok(())
        }
        SourceStep::Stay => Ok(()),
        SourceStep::No(code) => Err(refused(source, code)),
    }
}

/// Asks the table without changing anything.
///
/// # Errors
///
/// The code of the state table.
pub(super) fn ask(source: &Source, event: SourceEvent) -> ApiResult<()> {
    match source.status.on(event) {
        SourceStep::Go(_) | SourceStep::Stay => Ok(()),
        SourceStep::No(code) => Err(refused(source, code)),
    }
}

/// A source that is not deleted.
pub(super) fn find(world: &World, id: &str) -> ApiResult<Source> {
    let source = world
        .sources
        .get(id)
        .filter(|source| source.status != SourceStatus::Deleted);
    source
        .map(|source| Source::clone(source))
        .ok_or_else(|| missing(id))
}

/// The event that a sign of life is: whether one of its jobs is active.
fn sign_of_life(world: &World, id: &str) -> SourceEvent {
    if world.jobs_of(id).any(|job| job.status.is_active()) {
        SourceEvent::Busy
    } else {
        SourceEvent::Idle
    }
}

/// Brings a source that is heard from in line with its jobs, after one of them changed.
pub(super) fn follow_jobs(transaction: &mut Transaction<'_>, id: &str) -> ApiResult<()> {
    let Some(source) = transaction.get::<Source>(id) else {
        return Ok(());
    };
    if !matches!(source.status, SourceStatus::Online | SourceStatus::Migrating) {
        return Ok(());
    }
    let mut changed = Source::clone(&source);
    happen(&mut changed, sign_of_life(transaction.world(), id))?;
    if changed.status != source.status {
        transaction.put(changed);
    }
    Ok(())
}

pub(super) async fn create(app: &App, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    let version = version_numbers(params.required("ClientVersion")).unwrap_or_default();
    if version < app.settings.client_version_min {
        let wanted: Vec<String> = app
            .settings
            .client_version_min
            .iter()
            .map(u32::to_string)
            .collect();
        let message = format!(
            "this agent is too old: version {} or later is needed",
            wanted.join(".")
        );
        return Err(ApiError::new(Code::VersionLowerThanRequired, message));
    }
    let source = new_source(call);
    let id = source.source_server_id.clone();
    let created = app
        .engine
        .change(move |transaction| register(transaction, call, source))
        .await?;
    if created {
        Ok(answer([("SourceServerId", id.into())]))
    } else {
        Err(exists())
    }
}

fn exists() -> ApiError {
    ApiError::new(
        Code::SourceServerExist,
        "a source server with this Identifier is registered; find it with the filter identifier",
    )
}

/// Registers a source; `false` if its identifier is registered already. Either way temporary credentials are from now on
/// for this source: who knows the identifier, which only the machine and its administrators do, is the machine.
fn register(transaction: &mut Transaction<'_>, call: &Call, source: Source) -> ApiResult<bool> {
    let known = transaction
        .world()
        .sources
        .values()
        .find(|known| known.identifier == source.identifier && known.status != SourceStatus::Deleted);
    let (id, created) = match known {
        Some(known) => (known.source_server_id.clone(), false),
        None => (source.source_server_id.clone(), true),
    };
    if let Some(bound) = &call.caller.source
        && *bound != id
    {
        let gone = || ApiError::new(Code::SecretIdNotFound, "this key was removed");
        let mut key = Key::clone(&*transaction.get::<Key>(&call.caller.secret_id).ok_or_else(gone)?);
        let Some(temporary) = key
            .temporary
            .as_mut()
            .filter(|temporary| temporary.source_server_id.is_empty())
        else {
            let message = "these temporary credentials have registered another source; enrol this one with a code of its own";
            return Err(ApiError::new(Code::AuthUnauthorized, message));
        };
        temporary.source_server_id = id;
        transaction.put(key);
    } else if !created {
        return Err(exists());
    }
    if created {
        transaction.put(source);
    }
    Ok(created)
}

fn new_source(call: &Call) -> Source {
    let params = &call.params;
    let value = |name: &str, none: Value| params.value(name).cloned().unwrap_or(none);
    let system_info = value("SystemInfo", json!({}));
    let host_name = system_info["HostName"].as_str().unwrap_or_default().to_owned();
    let is_offline = params.text("Status") == Some("OFFLINE");
    let or = |given: Option<&str>, default: &str| {
        given
            .filter(|text| !text.is_empty())
            .unwrap_or(default)
            .to_owned()
    };
    Source {
        source_server_id: identity::id("ss-"),
        name: or(params.text("Name"), &host_name),
        description: params.owned("Description"),
        status: if is_offline {
            SourceStatus::Offline
        } else {
            SourceStatus::Online
        },
        identifier: params.owned("Identifier"),
        client_version: params.owned("ClientVersion"),
        system_info,
        server_info: value("ServerInfo", json!({})),
        system_disk_info: value("SystemDiskInfo", json!({})),
        data_disks_info: value("DataDisksInfo", json!([])),
        architecture: params.owned("Architecture"),
        os_type: params.owned("OsType"),
        create_time: clock::text(call.now),
        update_time: clock::text(call.now),
        end_time: String::new(),
        product: or(params.text("Product"), "cvm"),
        platform: params.owned("Platform"),
        session_token: params.owned("SessionToken"),
        internal: SourceInternal {
            owner: call.caller.secret_id.clone(),
            seen: call.now,
            ended: 0,
        },
    }
}

pub(super) async fn modify(app: &App, call: &Call) -> ApiResult<Answer> {
    app.change(call, |transaction| {
        let params = &call.params;
        let mut source = find(transaction.world(), params.required("SourceServerId"))?;
        call.own_source(&source)?;
        happen(&mut source, SourceEvent::Modify)?;
        if let Some(name) = params.text("Name") {
            source.name = name.to_owned();
        }
        if let Some(description) = params.text("Description") {
            source.description = description.to_owned();
        }
        source.update_time = params
            .text("UpdateTime")
            .map_or_else(|| clock::text(call.now), str::to_owned);
        match params.text("Status") {
            Some("OFFLINE") => happen(&mut source, SourceEvent::Lost)?,
            Some("DELETING" | "DELETED") => {
                let message = "a source is deleted with DeleteSourceServer";
                return Err(ApiError::new(Code::InvalidParameterValue, message));
            }
            Some(_) => hear(transaction.world(), &mut source, call.now)?,
            None if params.text("UpdateTime").is_some() => hear(transaction.world(), &mut source, call.now)?,
            None => {}
        }
        transaction.put(source);
        Ok(Answer::new())
    })
    .await
}

fn hear(world: &World, source: &mut Source, now: i64) -> ApiResult<()> {
    source.internal.seen = now;
    happen(source, sign_of_life(world, &source.source_server_id))
}

pub(super) async fn delete(app: &App, call: &Call) -> ApiResult<Answer> {
    app.change(call, |transaction| {
        let mut source = find(transaction.world(), call.params.required("SourceServerId"))?;
        call.own_source(&source)?;
        if transaction
            .world()
            .jobs_of(&source.source_server_id)
            .any(|job| job.status.is_unfinished())
        {
            return Err(refused(&source, Code::SourceServerRelatedUnFinishedJob));
        }
        happen(&mut source, SourceEvent::Delete)?;
        source.end_time = clock::text(call.now);
        source.internal.ended = call.now;
        transaction.put(source);
        Ok(Answer::new())
    })
    .await
}

pub(super) async fn denied(app: &App, call: &Call) -> ApiResult<Answer> {
    let set = app.engine.read(|world| {
        let ids = call.params.texts("SourceServerIds");
        let one = |id: &String| {
            let source = find(world, id)?;
            call.own_source(&source)?;
            Ok(json!({"SourceServerId": id, "DeniedActions": denied_actions(world, &source)}))
        };
        ids.iter().map(one).collect::<ApiResult<Vec<Value>>>()
    });
    Ok(answer([("SourceServerDeniedActionSet", set.await?.into())]))
}

fn denied_actions(world: &World, source: &Source) -> Vec<Value> {
    let has_job = world
        .jobs_of(&source.source_server_id)
        .any(|job| job.status.is_unfinished());
    let mut denied = Vec::new();
    for (action, event) in SOURCE_ACTIONS {
        let by_job = has_job && event != SourceEvent::Modify;
        let refusal = match ask(source, event) {
            Err(error) => Some(error),
            Ok(()) => by_job.then(|| refused(source, Code::SourceServerRelatedUnFinishedJob)),
        };
        if let Some(error) = refusal {
            denied.push(json!({"Action": action, "Code": error.code.as_str(), "Message": error.message}));
        }
    }
    denied
}

const FILTERS: [&str; 9] = [
    "source-server-id",
    "name",
    "job-id",
    "status",
    "os-type",
    "architecture",
    "product",
    "session-token",
    "identifier",
];

pub(super) async fn describe(app: &App, call: &Call) -> ApiResult<Answer> {
    let filters = Filters::read(&call.params, &FILTERS, Code::ParameterValueNotSupportValue)?;
    filters.form(
        "source-server-id",
        schema::is_source_id,
        Code::InvalidSourceServerIdMalformed,
    )?;
    filters.form("job-id", schema::is_job_id, Code::InvalidTaskIdFormat)?;
    let is_status = |text: &str| SourceStatus::ALL.iter().any(|status| status.as_str() == text);
    filters.form("status", is_status, Code::ParameterValueNotSupportValue)?;
    filters.form(
        "product",
        |text| matches!(text, "lh" | "cvm"),
        Code::ParameterValueNotSupportValue,
    )?;
    let (total, page) = app
        .engine
        .read(|world| {
            let wanted = |source: &Source| {
                let hidden = source.status == SourceStatus::Deleted && !filters.asks("status", "DELETED");
                !hidden && call.sees_source(&source.source_server_id) && matches(world, source, &filters)
            };
            let mut found: Vec<_> = world.sources.values().filter(|source| wanted(source)).collect();
            found.sort_by(|one, other| other.create_time.cmp(&one.create_time));
            let (total, page) = page(found, &call.params);
            Ok((
                total,
                page.into_iter().map(|source| source.render()).collect::<Vec<_>>(),
            ))
        })
        .await?;
    Ok(answer([
        ("TotalCount", total.into()),
        ("SourceServers", page.into()),
    ]))
}

fn matches(world: &World, source: &Source, filters: &Filters) -> bool {
    filters.all(|filter| match filter.name.as_str() {
        "source-server-id" => filter.has(&source.source_server_id),
        "name" => filter
            .values
            .iter()
            .any(|value| source.name.contains(value.as_str())),
        "job-id" => world
            .jobs_of(&source.source_server_id)
            .any(|job| filter.has(&job.job_id)),
        "status" => filter.has(source.status.as_str()),
        "os-type" => filter.has(&source.os_type),
        "architecture" => filter.has(&source.architecture),
        "product" => filter.has(&source.product),
        "session-token" => filter.has(&source.session_token),
        _ => filter.has(&source.identifier),
    })
}
