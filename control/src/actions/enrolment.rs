//! Enrolment codes, the temporary credentials that they are exchanged for, and the audit trail.

use csm::Secret;
use serde_json::{Value, json};

use super::{Answer, answer};
use crate::app::{App, Call};
use crate::clock;
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::records::{Audit, Enrolment, Key, Temporary};

/// Name of the exchange in the audit trail and the request log.
pub const ENROL_ACTION: &str = "Enrol";
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

pub(super) async fn create(app: &App, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    let hours = params
        .uint("Hours")
        .and_then(|hours| i64::try_from(hours).ok())
        .unwrap_or(24);
    let code = format!("g2c-{}", identity::secret(32));
    let enrolment = Enrolment {
        enrolment_id: identity::id("enr-"),
        code_sha256: identity::fingerprint(&code),
        uses_left: params.uint("Uses").unwrap_or(1),
        expires: call.now + hours * HOUR,
        revoked: false,
        description: params.owned("Description"),
        created: call.now,
    };
    let members = answer([
        ("EnrolmentId", enrolment.enrolment_id.clone().into()),
        ("Code", code.into()),
        ("Uses", enrolment.uses_left.into()),
        ("ExpiredTime", clock::text(enrolment.expires).into()),
    ]);
    app.change(call, |transaction| {
        transaction.put(enrolment);
        Ok(members)
    })
    .await
}

pub(super) async fn describe(app: &App, call: &Call) -> ApiResult<Answer> {
    let set = app.engine.read(|world| {
        let mut all: Vec<_> = world.enrolments.values().collect();
        all.sort_by_key(|enrolment| std::cmp::Reverse(enrolment.created));
        let one = |enrolment: &Enrolment| {
            json!({
                "EnrolmentId": enrolment.enrolment_id,
                "UsesLeft": enrolment.uses_left,
                "ExpiredTime": clock::text(enrolment.expires),
                "Status": if enrolment.is_usable(call.now) { "USABLE" } else if enrolment.revoked { "REVOKED" } else { "SPENT" },
                "Description": enrolment.description,
                "CreateTime": clock::text(enrolment.created),
            })
        };
        Ok(all.into_iter().map(|enrolment| one(enrolment)).collect::<Vec<Value>>())
    });
    Ok(answer([("EnrolmentSet", set.await?.into())]))
}

pub(super) async fn revoke(app: &App, call: &Call) -> ApiResult<Answer> {
    app.change(call, |transaction| {
        let id = call.params.required("EnrolmentId");
        let missing = || ApiError::new(Code::ResourceNotFound, format!("there is no enrolment {id:.64}"));
        let mut enrolment = Enrolment::clone(&*transaction.get::<Enrolment>(id).ok_or_else(missing)?);
        enrolment.revoked = true;
        transaction.put(enrolment);
        // What it was exchanged for ends with it.
        let issued: Vec<Key> = transaction
            .world()
            .keys
            .values()
            .filter(|key| {
                key.temporary
                    .as_ref()
                    .is_some_and(|temporary| temporary.enrolment_id == id)
            })
            .map(|key| Key::clone(key))
            .collect();
        for key in issued {
            transaction.put(Key {
                disabled: true,
                ..key
            });
        }
        Ok(Answer::new())
    })
    .await
}

/// Exchanges a code for temporary credentials. The code is looked up by its digest, so that the comparison tells nothing.
///
/// # Errors
///
/// `AuthFailure.TokenFailure` for a code that cannot be exchanged (any more).
pub async fn exchange(app: &App, code: &str, address: &str, now: i64, request_id: &str) -> ApiResult<Answer> {
    let digest = identity::fingerprint(code);
    let secret_id = format!("TMP{}", identity::secret(29));
    let secret_key = Secret::new(identity::secret(43));
    let token = Secret::new(identity::secret(43));
    let expires = now + app.settings.credential_days * DAY;
    let members = answer([
        ("TmpSecretId", secret_id.clone().into()),
        ("TmpSecretKey", secret_key.reveal().into()),
        ("Token", token.reveal().into()),
        ("ExpiredTime", clock::text(expires).into()),
    ]);
    app.engine
        .change(|transaction| {
            let known = transaction
                .world()
                .enrolments
                .values()
                .find(|it| it.code_sha256 == digest && it.is_usable(now));
            let refused = || {
                ApiError::new(
                    Code::TokenFailure,
                    "this enrolment code is unknown, used up, expired or revoked",
                )
            };
            let mut enrolment = Enrolment::clone(known.ok_or_else(refused)?);
            enrolment.uses_left -= 1;
            let enrolment_id = enrolment.enrolment_id.clone();
            transaction.put(enrolment);
            transaction.put(Key {
                sealed_key: app.vault.seal(&secret_id, &secret_key),
                disabled: false,
                description: format!("enrolled by {enrolment_id}"),
                created: now,
                temporary: Some(Temporary {
                    expires,
                    token_sha256: identity::fingerprint(token.reveal()),
                    enrolment_id: enrolment_id.clone(),
                    source_server_id: String::new(),
                }),
                secret_id: secret_id.clone(),
            });
            transaction.audit(Audit {
                sequence: 0,
                time: now,
                who: enrolment_id,
                address: address.to_owned(),
                action: ENROL_ACTION.to_owned(),
                resource: secret_id,
                result: "OK".to_owned(),
                request_id: request_id.to_owned(),
                routine: false,
            });
            Ok(members)
        })
        .await
}

pub(super) async fn audit(app: &App, call: &Call) -> ApiResult<Answer> {
    let limit = call
        .params
        .uint("Limit")
        .and_then(|limit| i64::try_from(limit).ok())
        .unwrap_or(100);
    let before = call
        .params
        .uint("Before")
        .and_then(|before| i64::try_from(before).ok())
        .unwrap_or(i64::MAX);
    let records = app.engine.audit(before, limit).await?;
    let set: Vec<Value> = records.iter().map(Audit::render).collect();
    Ok(answer([("AuditSet", set.into())]))
}
