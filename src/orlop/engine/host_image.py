"""`image from-host`: a base image made of this machine's own programs, without any network."""

from __future__ import annotations

from orlop.engine import journal
from orlop.engine.storage import image_record, unpack_image
from orlop.engine.transfer import keep_blob, sized
from orlop.errors import InvalidArgument
from orlop.events import Event
from orlop.oci import jsontext, mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.image import History, ImageConfig
from orlop.oci.manifest import Manifest
from orlop.oci.platform import Platform
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.engine.requests import FromHost
    from orlop.events import Report
    from orlop.layers.tarentry import Buffer
    from orlop.store.images import ImageRecord


def make(engine: Engine, request: FromHost, report: Report) -> ImageRecord:
    """Pack the programs, and name the image. The same programs make the same image, byte for byte."""
    import os

    from orlop.build import host
    from orlop.layers import compress
    from orlop.oci.digest import Digest, hasher

    name = Reference.parse(request.name)
    if name.digest:
        raise InvalidArgument(f"{request.name} names a digest, which nobody can choose", hint="use NAME[:TAG]")
    path = dict(engine.settings.environ).get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    content = engine.root.content
    with engine.root.lease() as lease:
        running = hasher()
        with content.begin(f"host-{lease.id}", resume=False) as ingest:
            out = compress.gzip_writer(ingest.write)

            def write(piece: Buffer) -> None:
                running.update(piece)
                out.write(piece)

            packed = host.pack(host.pack_request(request, path), write)
            out.close()
            lease.hold("blob", ingest.digest)
            digest, size = ingest.commit(None)
        for missing in packed.warnings:
            report(Event(action="warning", text=missing))
        config = ImageConfig(
            platform=Platform.of_machine(os.uname().machine),
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *request.env),
            entrypoint=request.entrypoint or None,
            cmd=request.command or None,
            diff_ids=(Digest.from_hasher("sha256", running),),
            history=(History(created_by="orlop image from-host " + " ".join((request.name, *request.programs))),),
        )
        raw = jsontext.dumps(config.to_json())
        descriptor = Descriptor.of(raw, mediatype.OCI_CONFIG)
        keep_blob(engine, lease, descriptor, [raw])
        manifest = Manifest.build(
            config=descriptor, layers=[Descriptor(media_type=mediatype.OCI_LAYER_GZIP, digest=digest, size=size)]
        )
        keep_blob(engine, lease, manifest.descriptor, [manifest.raw])
        record = image_record(engine.settings.namespace, manifest, config)
        record = sized(engine, record, unpack_image(engine, record, lease, report))
        engine.images.add(record, [name])
    journal.record(engine.root, "image", "import", record.config, {"name": name.familiar})
    return record
