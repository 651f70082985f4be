//! The service: from options to a listening door, and in order to its end.

mod clockwork;
mod plan;
mod static_instances;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::actions;
use crate::app::App;
use crate::engine::Engine;
use crate::http::listener::{Door as Connections, PeerAddress};
use crate::http::{Door, router, tls};
use crate::vault::Vault;

pub use plan::{Plan, ServeArguments, data_folder};

/// How long requests may take to end after the service was told to.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot start.
pub async fn serve(plan: Plan) -> anyhow::Result<()> {
    let identity = match &plan.certificate {
        _ if plan.is_plain => None,
        Some((certificate, key)) => Some(tls::read(certificate, key)?),
        None => Some(tls::self_signed(
            &plan.settings.data,
            plan.listen.ip(),
            &plan.tls_names,
        )?),
    };
    let listener = TcpListener::bind(plan.listen)
        .await
        .with_context(|| format!("cannot listen on {}", plan.listen))?;
    let address = listener.local_addr()?;
    let (is_json, idle_timeout) = (plan.is_json, plan.idle_timeout);
    let app = build(plan).await?;
    let fingerprint = identity.as_ref().map(|identity| identity.fingerprint.clone());
    let connections = Connections::open(listener, identity.map(|identity| identity.acceptor), idle_timeout)?;
    let mut stop = told_to_stop()?;
    let clockwork = tokio::spawn(clockwork::run(app.clone(), stop.clone()));
    let (taking_up, app_to_resume) = (stop.clone(), app.clone());
    tokio::spawn(async move {
        actions::transit::resume(&app_to_resume).await;
        if !*taking_up.borrow() {
            actions::resume_migration_mode(&app_to_resume).await;
        }
    });
    announce(address, fingerprint.as_deref(), is_json)?;
    let service =
        router(Arc::new(Door::new(app.clone()))).into_make_service_with_connect_info::<PeerAddress>();
    let mut drained = stop.clone();
    let server = axum::serve(connections, service).with_graceful_shutdown(async move {
        drop(drained.wait_for(|stop| *stop).await);
    });
    tokio::select! {
        served = server => served.context("the server failed")?,
        () = deadline(&mut stop) => tracing::warn!("some requests did not end in time"),
    }
    end(&app, clockwork).await;
    Ok(())
}

/// Requests, providers and receivers come to their end before the database does.
async fn end(app: &Arc<App>, clockwork: tokio::task::JoinHandle<()>) {
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    drop(clockwork.await);
    app.providers.local.stop().await;
    let app = app.clone();
    drop(tokio::task::spawn_blocking(move || app.engine.stop()).await);
    tracing::info!("ended");
}

/// Never returns before the drain timeout after the stop.
async fn deadline(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}

async fn build(plan: Plan) -> anyhow::Result<Arc<App>> {
    let data = plan.settings.data.clone();
    let (database, networks) = (plan.database, plan.networks);
    let engine = tokio::task::spawn_blocking(move || Engine::start(database.open()?)).await??;
    let vault = Vault::open(&data.join("secrets.key"))?;
    let app = App {
        engine,
        vault,
        providers: plan.providers,
        networks,
        settings: plan.settings,
        locks: crate::app::Locks::default(),
    };
    if let Some(path) = &plan.static_instances {
        static_instances::declare(&app, path).await?;
    }
    Ok(Arc::new(app))
}

fn told_to_stop() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: no new requests, those begun are finished");
        sender.send_replace(true);
    });
    Ok(receiver)
}

/// Says on standard output that requests are taken from now on, and where.
fn announce(address: std::net::SocketAddr, fingerprint: Option<&str>, is_json: bool) -> anyhow::Result<()> {
    let scheme = if fingerprint.is_some() { "https" } else { "http" };
    let line = if is_json {
        json!({
            "event": "listening",
            "address": address.to_string(),
            "url": format!("{scheme}://{address}"),
            "fingerprint": fingerprint,
        })
        .to_string()
    } else {
        let fingerprint =
            fingerprint.map_or_else(String::new, |fingerprint| format!(" fingerprint {fingerprint}"));
        format!("listening on {scheme}://{address}{fingerprint}")
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    Ok(())
}
