//! Requests of every kind: right, nearly right, and wrong in one or many places.

use std::sync::Arc;

use csm::schema::{Kind, Structure};
use csm::signing::{SignMethod, tc3, v1};
use csm::{ActionName, Secret, Service, form};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Number, Value, json};

use super::wire::Sent;

/// What exists at the control plane, so that requests get past "not found".
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) address: String,
    pub(crate) keys: Vec<(String, String)>,
    pub(crate) ids: Vec<String>,
}

/// Everything about a request that is drawn.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    method: String,
    target_path: String,
    sign: Sign,
    key: usize,
    service: String,
    version: String,
    action: String,
    region: Option<String>,
    clock: i64,
    token: Option<String>,
    content_type: Option<String>,
    parameters: Value,
    raw_body: Option<Vec<u8>>,
    raw_query: Option<String>,
    damage: Option<(usize, u8)>,
    extra_header: Option<(String, Vec<u8>)>,
    drop_header: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Tc3,
    HmacSha1,
    HmacSha256,
    Not,
}

const TEXTS: [&str; 40] = [
    "",
    " ",
    "a",
    "local-1",
    "nowhere-9",
    "Image",
    "Instance",
    "Lh-Image",
    "Lh-Instance",
    "Immediate",
    "Delayed",
    "Timed",
    "cvm",
    "lh",
    "PENDING",
    "RUNNING",
    "SUCCESS",
    "FAILED",
    "STOPPED",
    "DELETED",
    "OFFLINE",
    "ONLINE",
    "succ",
    "fail",
    "0",
    "100",
    "-1",
    "1e309",
    "NaN",
    "2026-11-21T08:00:00Z",
    "2999-01-01T00:00:00Z",
    "0000-00-00T99:99:99Z",
    "60",
    "10080",
    "[\"/a\",\"/b\"]",
    "a;b",
    "quote'",
    "back\\slash",
    "迁移 🚚",
    "line\nbreak\u{0}",
];

/// Texts that a member of this name is likely to take.
fn likely(world: &World, name: &str) -> Vec<String> {
    let beginning = |prefix: &str| {
        world
            .ids
            .iter()
            .filter(|id| id.starts_with(prefix))
            .cloned()
            .collect()
    };
    let some = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    match name {
        "JobId" | "JobIds" => beginning("migrate-"),
        "SourceServerId" | "SourceServerIds" => beginning("ss-"),
        "InstanceId" | "InstanceIds" => beginning("ins-"),
        "TargetRegion" => some(&["local-1"]),
        "Zone" => some(&["local-1-1", "local-1a"]),
        "Status" => some(&["RUNNING", "SUCCESS", "FAILED", "STOPPED", "ONLINE", "OFFLINE"]),
        "TargetType" => some(&["Image", "Instance"]),
        "Progress" => some(&["0", "12.5", "100", "101"]),
        "Architecture" => some(&["x86_64", "arm64", "arm_64"]),
        "ClientVersion" => some(&["2.1.3", "0.0.1"]),
        "Identifier" => some(&[&"0".repeat(64), &"f".repeat(64), &"a1".repeat(32)]),
        "StartTime" | "UpdateTime" => some(&["2026-11-21T08:00:00Z", "2999-01-01T00:00:00Z"]),
        "Name" => some(&["job-id", "status", "source-server-id", "product", "name"]),
        _ => Vec::new(),
    }
}

fn text(world: &World, name: &str) -> BoxedStrategy<String> {
    let known = if world.ids.is_empty() {
        vec![String::new()]
    } else {
        world.ids.clone()
    };
    let anywhere = prop_oneof![
        4 => select(known),
        6 => select(TEXTS.to_vec()).prop_map(str::to_owned),
        2 => "[a-z]{2,12}-[a-z0-9]{8}",
        1 => any::<String>(),
        1 => (0_usize..5000, "[a-zA-Z迁]").prop_map(|(length, character)| character.repeat(length)),
    ];
    let likely = likely(world, name);
    if likely.is_empty() {
        return anywhere.boxed();
    }
    prop_oneof![12 => select(likely), 1 => anywhere].boxed()
}

fn anything() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| Number::from_f64(number).map_or(Value::Null, Value::Number)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec(("[A-Za-z0-9.]{0,8}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
    .boxed()
}

/// A value of the type, seldom of another.
fn of_kind(world: &Arc<World>, name: &str, kind: Kind) -> BoxedStrategy<Value> {
    let right = match kind {
        Kind::String => text(world, name).prop_map(Value::from).boxed(),
        Kind::Unsigned => prop_oneof![8 => 0_u64..60, 1 => any::<u64>()]
            .prop_map(Value::from)
            .boxed(),
        Kind::Signed => prop_oneof![8 => -2_i64..60, 1 => any::<i64>()]
            .prop_map(Value::from)
            .boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Kind::Float => (0.0..110.0).prop_map(|number: f64| json!(number)).boxed(),
        Kind::List(item) => vec(of_kind(world, name, *item), 0..3)
            .prop_map(Value::from)
            .boxed(),
        Kind::Structure(structure) => members(world, structure),
    };
    prop_oneof![30 => right, 1 => anything()].boxed()
}

fn members(world: &Arc<World>, structure: &'static Structure) -> BoxedStrategy<Value> {
    let mut all = Just(Map::new()).boxed();
    for field in structure.fields {
        let present = if field.required { 0.97 } else { 0.25 };
        let member = weighted(present, of_kind(world, field.name, field.kind));
        all = (all, member)
            .prop_map(|(mut members, value)| {
                if let Some(value) = value {
                    members.insert(field.name.to_owned(), value);
                }
                members
            })
            .boxed();
    }
    let unknown = weighted(0.03, ("[A-Z][a-z]{0,8}", anything()));
    (all, unknown)
        .prop_map(|(mut members, unknown)| {
            members.extend(unknown);
            Value::Object(members)
        })
        .boxed()
}

/// A call of the API with parameters after its description, or anything.
fn call(world: &Arc<World>) -> BoxedStrategy<(String, String, String, Value)> {
    let world = Arc::clone(world);
    let real = select(ActionName::ALL.to_vec()).prop_flat_map(move |action| {
        let service = action.service();
        members(&world, action.request()).prop_map(move |parameters| {
            (
                service.name().to_owned(),
                service.version().to_owned(),
                action.as_str().to_owned(),
                parameters,
            )
        })
    });
    let services = Service::ALL.map(|service| service.name().to_owned());
    let versions = Service::ALL.map(|service| service.version().to_owned());
    let own = select(vec![
        "CreateInstance",
        "DeleteInstance",
        "CreateEnrolmentCode",
        "DescribeAuditRecords",
    ]);
    prop_oneof![
        16 => real,
        1 => (own, anything()).prop_map(|(action, parameters)| {
            ("go2cloud".to_owned(), "2026-11-01".to_owned(), action.to_owned(), parameters)
        }),
        2 => (select(services.to_vec()), select(versions.to_vec()), "[A-Z][A-Za-z]{0,20}", anything()),
        1 => ("[a-z]{0,8}", "[0-9-]{0,12}", ".{0,20}", anything()),
    ]
    .boxed()
}

/// Any request.
pub(crate) fn request(world: &Arc<World>) -> impl Strategy<Value = Drawn> + use<> {
    let methods = prop_oneof![10 => Just("POST"), 10 => Just("GET"), 1 => select(vec!["PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])];
    let paths = prop_oneof![30 => Just("/".to_owned()), 1 => select(vec!["//", "/x", "/enrol", "/%00", "/../etc"]).prop_map(str::to_owned)];
    let signs = prop_oneof![10 => Just(Sign::Tc3), 5 => Just(Sign::HmacSha1), 5 => Just(Sign::HmacSha256), 1 => Just(Sign::Not)];
    let regions = prop_oneof![20 => Just(Some("local-1".to_owned())), 1 => Just(None), 1 => any::<String>().prop_map(Some)];
    let clocks = prop_oneof![20 => Just(0_i64), 1 => select(vec![-301, 301, -299, 299, i64::MAX, i64::MIN])];
    let types = prop_oneof![
        20 => Just(None),
        1 => select(vec!["application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x", "text/plain", ""]).prop_map(|kind| Some(kind.to_owned())),
        1 => "[ -~]{0,30}".prop_map(Some),
    ];
    let damages = weighted(0.05, (any::<usize>(), any::<u8>()));
    let header = (
        "(x-tc-[a-z]{1,10}|authorization|content-type|host|cookie|expect)",
        vec(0x20_u8..0x7f, 0..40),
    );
    let head = (
        methods,
        paths,
        signs,
        any::<usize>(),
        call(world),
        regions,
        clocks,
        weighted(0.03, "[ -~]{0,40}"),
    );
    let rest = (
        types,
        weighted(0.03, vec(any::<u8>(), 0..300)),
        weighted(0.03, "[A-Za-z0-9.~!$&'()*+,;=:@/?%_-]{0,120}"),
        damages,
        weighted(0.03, header),
        weighted(0.03, 0_usize..8),
    );
    (head, rest).prop_map(|(head, rest)| {
        let (method, target_path, sign, key, (service, version, action, parameters), region, clock, token) =
            head;
        let (content_type, raw_body, raw_query, damage, extra_header, drop_header) = rest;
        Drawn {
            method: method.to_owned(),
            target_path,
            sign,
            key,
            service,
            version,
            action,
            region,
            clock,
            token,
            content_type,
            parameters,
            raw_body,
            raw_query,
            damage,
            extra_header,
            drop_header,
        }
    })
}

impl Drawn {
    /// Signs it, as far as it is to be signed, and damages it.
    pub(crate) fn to_send(&self, world: &World, now: i64) -> Sent {
        let (secret_id, secret_key) = &world.keys[self.key % world.keys.len()];
        let secret_key = Secret::new(&**secret_key);
        let mut sent = match self.sign {
            Sign::Tc3 => self.by_tc3(world, now, secret_id, &secret_key),
            Sign::HmacSha1 => self.by_v1(SignMethod::HmacSha1, world, now, secret_id, &secret_key),
            Sign::HmacSha256 => self.by_v1(SignMethod::HmacSha256, world, now, secret_id, &secret_key),
            Sign::Not => self.unsigned(world),
        };
        if let Some(at) = self.drop_header.filter(|at| *at < sent.headers.len()) {
            sent.headers.remove(at);
        }
        if let Some((name, value)) = &self.extra_header {
            sent.headers.push((name.clone(), value.clone()));
        }
        if let Some((at, byte)) = self.damage
            && !sent.body.is_empty()
        {
            let at = at % sent.body.len();
            sent.body[at] = byte;
        }
        sent
    }

    fn timestamp(&self, now: i64) -> i64 {
        now.saturating_add(self.clock)
    }

    fn is_get(&self) -> bool {
        self.method == "GET"
    }

    fn type_or(&self, usual: &str) -> String {
        self.content_type.clone().unwrap_or_else(|| usual.to_owned())
    }

    fn by_tc3(&self, world: &World, now: i64, secret_id: &str, secret_key: &Secret) -> Sent {
        let query = if self.is_get() {
            form::encode(&form::flatten(&self.parameters))
        } else {
            String::new()
        };
        let query = self.raw_query.clone().unwrap_or(query);
        let body = if self.is_get() {
            Vec::new()
        } else {
            self.parameters.to_string().into_bytes()
        };
        let body = self.raw_body.clone().unwrap_or(body);
        let usual = if self.is_get() {
            "application/x-www-form-urlencoded"
        } else {
            "application/json"
        };
        let content_type = self.type_or(usual);
        let timestamp = self.timestamp(now);
        let request = tc3::Request {
            method: &self.method,
            query: &query,
            payload: &body,
            timestamp,
            service: &self.service,
        };
        let signed = [
            ("content-type", content_type.as_str()),
            ("host", world.address.as_str()),
        ];
        let authorization =
            tc3::sign(&request, &signed, secret_id, secret_key).unwrap_or_else(|| "TC3".to_owned());
        let mut headers = vec![
            ("Host".to_owned(), world.address.clone()),
            ("Content-Type".to_owned(), content_type),
            ("Authorization".to_owned(), authorization),
            ("X-TC-Action".to_owned(), self.action.clone()),
            ("X-TC-Version".to_owned(), self.version.clone()),
            ("X-TC-Timestamp".to_owned(), timestamp.to_string()),
        ];
        headers.extend(
            self.region
                .clone()
                .map(|region| ("X-TC-Region".to_owned(), region)),
        );
        headers.extend(self.token.clone().map(|token| ("X-TC-Token".to_owned(), token)));
        self.sent(headers, &query, body)
    }

    fn by_v1(
        &self,
        method: SignMethod,
        world: &World,
        now: i64,
        secret_id: &str,
        secret_key: &Secret,
    ) -> Sent {
        let mut parameters = form::flatten(&self.parameters);
        let nonce = (self.key as u64).max(1).to_string();
        let timestamp = self.timestamp(now).to_string();
        let common = [
            ("Action", self.action.as_str()),
            ("Version", &self.version),
            ("Timestamp", &timestamp),
            ("Nonce", &nonce),
            ("SecretId", secret_id),
            ("SignatureMethod", method.name()),
        ];
        parameters.extend(common.map(|(name, value)| (name.to_owned(), value.to_owned())));
        parameters.extend(self.region.clone().map(|region| ("Region".to_owned(), region)));
        parameters.extend(self.token.clone().map(|token| ("Token".to_owned(), token)));
        let signature = v1::sign(method, &self.method, &world.address, &parameters, secret_key);
        parameters.push(("Signature".to_owned(), signature));
        let encoded = form::encode(&parameters);
        let (query, body) = if self.is_get() {
            (encoded, Vec::new())
        } else {
            (String::new(), encoded.into_bytes())
        };
        let headers = vec![
            ("Host".to_owned(), world.address.clone()),
            (
                "Content-Type".to_owned(),
                self.type_or("application/x-www-form-urlencoded"),
            ),
        ];
        let (query, body) = (
            self.raw_query.clone().unwrap_or(query),
            self.raw_body.clone().unwrap_or(body),
        );
        self.sent(headers, &query, body)
    }

    fn unsigned(&self, world: &World) -> Sent {
        let headers = vec![
            ("Host".to_owned(), world.address.clone()),
            ("Content-Type".to_owned(), self.type_or("application/json")),
            ("X-TC-Action".to_owned(), self.action.clone()),
        ];
        self.sent(
            headers,
            self.raw_query.as_deref().unwrap_or_default(),
            self.parameters.to_string().into_bytes(),
        )
    }

    fn sent(&self, headers: Vec<(String, String)>, query: &str, body: Vec<u8>) -> Sent {
        let separator = if query.is_empty() { "" } else { "?" };
        // Line breaks would end a header: what follows would be another request, not this one.
        let one_line = |text: String| {
            text.bytes()
                .filter(|byte| *byte >= 0x20 && *byte != 0x7f)
                .collect()
        };
        let headers = headers
            .into_iter()
            .map(|(name, value)| (name, one_line(value)))
            .collect();
        let target = format!("{}{separator}{query}", self.target_path);
        Sent {
            method: self.method.clone(),
            target: target.replace([' ', '\r', '\n'], "+"),
            headers,
            body,
        }
    }
}
