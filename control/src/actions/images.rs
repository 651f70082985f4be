//! Images: listed, made of an instance, imported.

use std::sync::Arc;

use super::filter::{Filters, page};
use super::{Answer, answer, instances, transit};
use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::records::Image;
use crate::world::World;

/// Images that may exist at a time.
const IMAGES_MAX: usize = 1000;

pub(super) async fn describe(app: &App, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    let ids = params.texts("ImageIds");
    if !ids.is_empty() && !params.list("Filters").is_empty() {
        let message = "give ImageIds or Filters, not both";
        return Err(ApiError::new(
            Code::InvalidParameterCoexistImageIdsFilters,
            message,
        ));
    }
    let filters = Filters::read(params, &["image-id", "image-type"], Code::InvalidFilter)?;
    let (total, page) = app
        .engine
        .read(|world| {
            let wanted = |image: &&Arc<Image>| {
                (ids.is_empty() || ids.contains(&image.image_id))
                    && filters.all(|filter| match filter.name.as_str() {
                        "image-id" => filter.has(&image.image_id),
                        _ => filter.has("PRIVATE_IMAGE"),
                    })
            };
            let mut found: Vec<_> = world.images.values().filter(wanted).collect();
            found.sort_by_key(|image| std::cmp::Reverse(image.created));
            Ok(page(
                found.into_iter().map(|image| image.render()).collect(),
                params,
            ))
        })
        .await?;
    Ok(answer([("ImageSet", page.into()), ("TotalCount", total.into())]))
}

fn check_new(world: &World, name: &str) -> ApiResult<()> {
    if world.images.values().any(|image| image.image_name == name) {
        return Err(ApiError::new(
            Code::ImageNameDuplicate,
            format!("there is an image {name}"),
        ));
    }
    if world.images.len() >= IMAGES_MAX {
        return Err(ApiError::new(
            Code::ImageQuotaLimitExceeded,
            format!("there may be {IMAGES_MAX} images"),
        ));
    }
    Ok(())
}

pub(super) async fn create(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    let id = params.required("InstanceId");
    if !params.list("SnapshotIds").is_empty() || !params.list("DataDiskIds").is_empty() {
        let message = "an image is made of an instance's system disk; there are no snapshots here";
        return Err(ApiError::new(Code::UnsupportedOperation, message));
    }
    if id.is_empty() {
        return Err(ApiError::new(Code::MissingParameter, "InstanceId is required"));
    }
    let (instance, image) = app
        .engine
        .change(|transaction| {
            let missing = || ApiError::new(Code::CvmInstanceIdNotFound, format!("there is no instance {id}"));
            let instance = transaction
                .world()
                .instances
                .get(id)
                .cloned()
                .ok_or_else(missing)?;
            instances::check_usable(&instance)?;
            check_new(transaction.world(), params.required("ImageName"))?;
            let is_busy = transaction
                .world()
                .images
                .values()
                .any(|it| it.instance_id == id && it.state == "CREATING");
            if is_busy {
                return Err(ApiError::new(
                    Code::TaskRunning,
                    format!("an image of {id} is being made"),
                ));
            }
            if params.flag("DryRun") {
                return Err(ApiError::new(Code::DryRunOperation, "the image could be made"));
            }
            let image = Image {
                image_id: identity::id("img-"),
                image_name: params.owned("ImageName"),
                description: params.owned("ImageDescription"),
                owner: instance.owner,
                state: "CREATING".to_owned(),
                job_id: String::new(),
                instance_id: id.to_owned(),
                kind: instance.kind.clone(),
                os_type: instance.os_type.clone(),
                architecture: "x86_64".to_owned(),
                size_gb: instance.system_disk_gb,
                created: call.now,
            };
            transaction.put(image.clone());
            Ok((instance, image))
        })
        .await?;
    let image_id = image.image_id.clone();
    transit::finish_image(app, &instance, &image).await?;
    Ok(answer([
        ("ImageId", image_id.into()),
        ("TaskId", call.request_id.clone().into()),
    ]))
}

fn new_imported(app: &App, call: &Call) -> Image {
    let params = &call.params;
    let os = params.required("OsType").to_ascii_lowercase();
    Image {
        image_id: identity::id("img-"),
        image_name: params.owned("ImageName"),
        description: params.owned("ImageDescription"),
        owner: app.providers.default,
        state: "CREATING".to_owned(),
        job_id: String::new(),
        instance_id: String::new(),
        kind: "disk".to_owned(),
        os_type: if os.contains("windows") {
            "windows"
        } else {
            "linux"
        }
        .to_owned(),
        architecture: params.owned("Architecture"),
        size_gb: 0,
        created: call.now,
    }
}

pub(super) async fn import(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    let url = params.required("ImageUrl");
    if !["http://", "https://", "file:"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(ApiError::new(
            Code::InvalidParameterUrlError,
            "ImageUrl must begin with https://, http:// or file:",
        ));
    }
    let image = new_imported(app, call);
    app.engine
        .change(|transaction| {
            check_new(transaction.world(), &image.image_name)?;
            if params.flag("DryRun") {
                return Err(ApiError::new(
                    Code::DryRunOperation,
                    "the image could be imported",
                ));
            }
            transaction.put(image.clone());
            Ok(())
        })
        .await?;
    let provider = app.providers.of(image.owner)?;
    let imported = provider.import_image(&image, url).await;
    if imported.is_err()
        && let Err(error) = provider.discard_image(&image).await
    {
        tracing::warn!(image = %image.image_id, %error, "an unfinished image could not be removed");
    }
    app.engine
        .change(|transaction| {
            if imported.is_ok() {
                transaction.put(Image {
                    state: "NORMAL".to_owned(),
                    ..image.clone()
                });
            } else {
                transaction.remove::<Image>(&image.image_id);
            }
            Ok(())
        })
        .await?;
    match imported {
        Ok(()) => Ok(answer([
            ("ImageId", image.image_id.into()),
            ("TaskId", call.request_id.clone().into()),
        ])),
        Err(crate::provider::ProviderError::Unsupported(message)) => {
            Err(ApiError::new(Code::UnsupportedToImportImage, message))
        }
        Err(error) => Err(error.into()),
    }
}
