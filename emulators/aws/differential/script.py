"""The calls. The same for both peers; what a peer has of its own (subnets, images) is looked up first."""

ZONE = "us-east-2a"
OTHER_ZONE = "us-east-2b"
TYPE = "r7iz.4xlarge"
USER_DATA = "#!/bin/sh\necho <hello> & 'goodbye'\n"
AWKWARD = "a <tag> & its \"value\" 'é' +%2F"


def run(peer):
    place = find_place(peer)
    offers(peer)
    launches(peer, place)
    life(peer, place)
    volumes(peer, place)
    refusals(peer, place)
    pages(peer, place)
    parameters(peer)


def find_place(peer):
    """What every account has, by its own ids."""
    zone = [{"Name": "availability-zone", "Values": [ZONE]}]
    subnet = peer.ec2.describe_subnets(Filters=zone)["Subnets"][0]
    group = [{"Name": "group-name", "Values": ["default"]}]
    groups = peer.ec2.describe_security_groups(Filters=group)["SecurityGroups"]
    x86 = [{"Name": "architecture", "Values": ["x86_64"]}, {"Name": "root-device-type", "Values": ["ebs"]}]
    images = peer.ec2.describe_images(Filters=x86)["Images"]
    image = next(image for image in images if image["RootDeviceName"] == "/dev/xvda" and root_size(image) <= 30)
    return {
        "subnet": peer.name("subnet", subnet["SubnetId"]),
        "vpc": peer.name("vpc", subnet["VpcId"]),
        "group": peer.name("group", groups[0]["GroupId"]),
        "image": peer.name("image", image["ImageId"]),
        "root": image["RootDeviceName"],
    }


def root_size(image):
    return image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]


def offers(peer):
    peer.step("types", lambda: peer.ec2.describe_instance_types(InstanceTypes=[TYPE]))
    peer.step("large type", lambda: peer.ec2.describe_instance_types(InstanceTypes=["r8i.8xlarge"]))
    wanted = [{"Name": "instance-type", "Values": [TYPE]}]
    for kind in ("region", "availability-zone"):
        call = lambda kind=kind: peer.ec2.describe_instance_type_offerings(LocationType=kind, Filters=wanted)
        peer.step(f"offerings by {kind}", call)
    peer.step("no such type", lambda: peer.ec2.describe_instance_types(InstanceTypes=["z9.mega"]))


def request(peer, place, **changes):
    wanted = {
        "ImageId": place["image"],
        "InstanceType": TYPE,
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": place["subnet"],
        "SecurityGroupIds": [place["group"]],
        "ClientToken": "token-one",
        "UserData": USER_DATA,
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [
            {"DeviceName": place["root"], "Ebs": {"VolumeSize": 40, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}}
        ],
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "halo/slot", "Value": "0"}, {"Key": "awkward", "Value": AWKWARD}]},
            {"ResourceType": "volume", "Tags": [{"Key": "halo/slot", "Value": "root"}]},
        ],
    }
    wanted.update(changes)
    return {key: value for key, value in wanted.items() if value is not None}


def launches(peer, place):
    ec2 = peer.ec2
    peer.step("dry run", lambda: ec2.run_instances(**request(peer, place, DryRun=True)))
    answer = peer.step("launch", lambda: ec2.run_instances(**request(peer, place)))
    one = place["one"] = peer.name("one", answer["Instances"][0]["InstanceId"])
    described = peer.step("described", lambda: ec2.describe_instances(InstanceIds=[one]))
    disks = described["Reservations"][0]["Instances"][0]["BlockDeviceMappings"]
    root = place["root volume"] = peer.name("root volume", disks[0]["Ebs"]["VolumeId"])
    peer.step("root volume", lambda: ec2.describe_volumes(VolumeIds=[root]))
    peer.step("status", lambda: ec2.describe_instance_status(InstanceIds=[one]))
    again = peer.step("launch again with the token", lambda: ec2.run_instances(**request(peer, place)))
    peer.note("the token launched once", again is not None and again["Instances"][0]["InstanceId"] == one)
    changed = request(peer, place, InstanceType="r8i.8xlarge")
    peer.step("the token with another type", lambda: ec2.run_instances(**changed))
    dedicated = request(peer, place, ClientToken="token-two", Placement={"Tenancy": "dedicated"})
    answer = peer.step("dedicated launch", lambda: ec2.run_instances(**dedicated))
    two = place["two"] = peer.name("two", answer["Instances"][0]["InstanceId"])
    peer.step("dedicated described", lambda: ec2.describe_instances(InstanceIds=[two]))
    filters = {
        "by tag": {"Name": "tag:halo/slot", "Values": ["0"]},
        "by awkward tag": {"Name": "tag:awkward", "Values": [AWKWARD]},
        "by tag key": {"Name": "tag-key", "Values": ["awkward"]},
        "by wildcard": {"Name": "tag:halo/slot", "Values": ["?"]},
        "by no such tag": {"Name": "tag:halo/slot", "Values": ["7"]},
        "by state": {"Name": "instance-state-name", "Values": ["stopped"]},
        "by type": {"Name": "instance-type", "Values": [TYPE]},
        "by subnet": {"Name": "subnet-id", "Values": [place["subnet"]]},
        "by token": {"Name": "client-token", "Values": ["token-one"]},
        "by tenancy": {"Name": "tenancy", "Values": ["dedicated"]},
        "by no such field": {"Name": "colour", "Values": ["blue"]},
    }
    for name, wanted in filters.items():
        peer.step(name, lambda: ec2.describe_instances(Filters=[wanted], InstanceIds=[one]))


def life(peer, place):
    ec2, one, two = peer.ec2, place["one"], place["two"]
    peer.step("start what runs", lambda: ec2.start_instances(InstanceIds=[one]))
    peer.step("stop", lambda: ec2.stop_instances(InstanceIds=[one]))
    peer.step("stopped", lambda: ec2.describe_instances(InstanceIds=[one]))
    peer.step("status of what runs", lambda: ec2.describe_instance_status(InstanceIds=[one]))
    peer.step("status of all", lambda: ec2.describe_instance_status(InstanceIds=[one], IncludeAllInstances=True))
    peer.step("start", lambda: ec2.start_instances(InstanceIds=[one]))
    peer.step("started", lambda: ec2.describe_instances(InstanceIds=[one]))
    peer.step("stop dry run", lambda: ec2.stop_instances(InstanceIds=[one], DryRun=True))
    peer.step("tag", lambda: ec2.create_tags(Resources=[one], Tags=[{"Key": "later", "Value": "yes"}, {"Key": "halo/slot", "Value": "1"}]))
    own = [{"Name": "resource-id", "Values": [one]}]
    peer.step("tags", lambda: ec2.describe_tags(Filters=own))
    peer.step("terminate", lambda: ec2.terminate_instances(InstanceIds=[two]))
    peer.step("terminated", lambda: ec2.describe_instances(InstanceIds=[two]))
    peer.step("terminate again", lambda: ec2.terminate_instances(InstanceIds=[two]))
    peer.step("start what is terminated", lambda: ec2.start_instances(InstanceIds=[two]))
    peer.step("stop what is terminated", lambda: ec2.stop_instances(InstanceIds=[two]))
    spent = request(peer, place, ClientToken="token-two", Placement={"Tenancy": "dedicated"})
    peer.step("the token of what is terminated", lambda: ec2.run_instances(**spent))


def volumes(peer, place):
    ec2, one = peer.ec2, place["one"]
    wanted = {
        "AvailabilityZone": ZONE,
        "Size": 100,
        "VolumeType": "gp3",
        "Encrypted": True,
        "ClientToken": "volume-one",
        "TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "halo/zone", "Value": ZONE}]}],
    }
    peer.step("volume dry run", lambda: ec2.create_volume(**wanted, DryRun=True))
    data = peer.name("data", peer.step("volume", lambda: ec2.create_volume(**wanted))["VolumeId"])
    again = peer.step("volume again with the token", lambda: ec2.create_volume(**wanted))
    peer.note("the token made one volume", again is not None and again["VolumeId"] == data)
    larger = wanted | {"Size": 200}
    peer.step("volume token with another size", lambda: ec2.create_volume(**larger))
    peer.step("volume described", lambda: ec2.describe_volumes(VolumeIds=[data]))
    by_tag = [{"Name": "tag:halo/zone", "Values": [ZONE]}, {"Name": "status", "Values": ["available"]}]
    peer.step("volume by tag", lambda: ec2.describe_volumes(VolumeIds=[data], Filters=by_tag))
    attach = {"VolumeId": data, "InstanceId": one, "Device": "/dev/sdf"}
    peer.step("attach", lambda: ec2.attach_volume(**attach))
    peer.step("attached", lambda: ec2.describe_volumes(VolumeIds=[data]))
    peer.step("disks", lambda: ec2.describe_instances(InstanceIds=[one]))
    peer.step("attach what is attached", lambda: ec2.attach_volume(**attach))
    peer.step("delete what is attached", lambda: ec2.delete_volume(VolumeId=data))
    far = ec2.create_volume(AvailabilityZone=OTHER_ZONE, Size=10, VolumeType="gp3")["VolumeId"]
    peer.name("far", far)
    peer.step("attach from another zone", lambda: ec2.attach_volume(VolumeId=far, InstanceId=one, Device="/dev/sdg"))
    peer.step("detach from nowhere", lambda: ec2.detach_volume(VolumeId=far, InstanceId=one, Device="/dev/sdg"))
    peer.step("detach", lambda: ec2.detach_volume(**attach))
    peer.step("detached", lambda: ec2.describe_volumes(VolumeIds=[data]))
    peer.step("detach what is detached", lambda: ec2.detach_volume(**attach))
    peer.step("delete", lambda: ec2.delete_volume(VolumeId=data))
    peer.step("deleted", lambda: ec2.describe_volumes(VolumeIds=[data]))
    peer.step("the token of a deleted volume", lambda: ec2.create_volume(**wanted))
    peer.step("volume without a size", lambda: ec2.create_volume(AvailabilityZone=ZONE, VolumeType="gp3"))
    peer.step("volume in no such zone", lambda: ec2.create_volume(AvailabilityZone="us-east-2z", Size=1))
    no_snapshot = {"AvailabilityZone": ZONE, "SnapshotId": "snap-0123456789abcdef0"}
    peer.step("volume of no such snapshot", lambda: ec2.create_volume(**no_snapshot))
    peer.step("end of one", lambda: ec2.terminate_instances(InstanceIds=[one]))
    peer.step("its root volume", lambda: ec2.describe_volumes(VolumeIds=[place["root volume"]]))


def refusals(peer, place):
    ec2 = peer.ec2
    nothing = "i-0123456789abcdef0"
    no_disk = {"VolumeId": "vol-0123456789abcdef0"}
    calls = {
        "no such image": lambda: ec2.run_instances(**request(peer, place, ImageId="ami-0123456789abcdef0", ClientToken="x1")),
        "malformed image": lambda: ec2.run_instances(**request(peer, place, ImageId="image", ClientToken="x2")),
        "no such subnet": lambda: ec2.run_instances(**request(peer, place, SubnetId="subnet-0123456789abcdef0", ClientToken="x3")),
        "no such group": lambda: ec2.run_instances(**request(peer, place, SecurityGroupIds=["sg-0123456789abcdef0"], ClientToken="x4")),
        "launch of no such type": lambda: ec2.run_instances(**request(peer, place, InstanceType="z9.mega", ClientToken="x5")),
        "no such instance": lambda: ec2.describe_instances(InstanceIds=[nothing]),
        "malformed instance": lambda: ec2.describe_instances(InstanceIds=["nonsense"]),
        "start no such instance": lambda: ec2.start_instances(InstanceIds=[nothing]),
        "stop no such instance": lambda: ec2.stop_instances(InstanceIds=[nothing]),
        "terminate no such instance": lambda: ec2.terminate_instances(InstanceIds=[nothing]),
        "tag no such instance": lambda: ec2.create_tags(Resources=[nothing], Tags=[{"Key": "a", "Value": "b"}]),
        "no such volume": lambda: ec2.describe_volumes(VolumeIds=[no_disk["VolumeId"]]),
        "delete no such volume": lambda: ec2.delete_volume(**no_disk),
        "attach no such volume": lambda: ec2.attach_volume(**no_disk, InstanceId=nothing, Device="/dev/sdf"),
        "describe no such subnet": lambda: ec2.describe_subnets(SubnetIds=["subnet-0123456789abcdef0"]),
        "describe no such group": lambda: ec2.describe_security_groups(GroupIds=["sg-0123456789abcdef0"]),
        "describe no such image": lambda: ec2.describe_images(ImageIds=["ami-0123456789abcdef0"]),
        "reserved tag": lambda: ec2.create_tags(Resources=[place["one"]], Tags=[{"Key": "aws:mine", "Value": "b"}]),
        "no tags": lambda: ec2.create_tags(Resources=[place["one"]], Tags=[]),
    }
    for name, call in calls.items():
        peer.step(name, call)


def pages(peer, place):
    ec2 = peer.ec2
    for number in range(7):
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "page", "Value": "yes"}]}]
        ec2.run_instances(**request(peer, place, ClientToken=f"page-{number}", TagSpecifications=tags))
    wanted = {"Filters": [{"Name": "tag:page", "Values": ["yes"]}], "MaxResults": 5}
    sizes, found, token = [], set(), {}
    while len(sizes) < 5:
        answer = ec2.describe_instances(**wanted, **token)
        instances = [one["InstanceId"] for launch in answer["Reservations"] for one in launch["Instances"]]
        sizes.append(len(instances))
        found.update(instances)
        if not answer.get("NextToken"):
            break
        token = {"NextToken": answer["NextToken"]}
    peer.note("pages of instances", {"sizes": sizes, "different": len(found)})
    too_small = lambda: ec2.describe_instances(MaxResults=2)
    peer.step("too small a page", too_small)
    peer.step("no such page", lambda: ec2.describe_instances(MaxResults=5, NextToken="nonsense"))
    ids_and_pages = lambda: ec2.describe_instances(InstanceIds=sorted(found)[:1], MaxResults=5)
    peer.step("a page of named instances", ids_and_pages)


def parameters(peer):
    ssm = peer.ssm
    name = "/halo/root"
    secret = {"Name": name, "Value": "first " + "x" * 32, "Type": "SecureString"}
    peer.step("get before put", lambda: ssm.get_parameter(Name=name))
    peer.step("put", lambda: ssm.put_parameter(**secret))
    peer.step("put again", lambda: ssm.put_parameter(**secret))
    second = secret | {"Value": " second, with spaces and a line\n", "Overwrite": True}
    peer.step("overwrite", lambda: ssm.put_parameter(**second))
    peer.step("get decrypted", lambda: ssm.get_parameter(Name=name, WithDecryption=True))
    peer.step("get first version", lambda: ssm.get_parameter(Name=name + ":1", WithDecryption=True))
    peer.step("get no such version", lambda: ssm.get_parameter(Name=name + ":9", WithDecryption=True))
    sealed = peer.step("get encrypted", lambda: ssm.get_parameter(Name=name))
    plaintext = second["Value"]
    peer.note("the ciphertext hides the value", sealed is not None and plaintext not in sealed["Parameter"]["Value"])
    peer.step("put plain", lambda: ssm.put_parameter(Name="/halo/plain", Value="a,b", Type="StringList"))
    peer.step("get plain", lambda: ssm.get_parameter(Name="/halo/plain"))
    several = ["/halo/plain", name, "/halo/none"]
    peer.step("get several", lambda: ssm.get_parameters(Names=several, WithDecryption=True))
    peer.step("put without a type", lambda: ssm.put_parameter(Name="/halo/untyped", Value="x"))
    peer.step("put under a reserved name", lambda: ssm.put_parameter(Name="/aws/mine", Value="x", Type="String"))
    peer.step("put too much", lambda: ssm.put_parameter(Name="/halo/large", Value="x" * 4097, Type="String"))
    public = "/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/standard/recommended/image_id"
    peer.step("public image", lambda: ssm.get_parameter(Name=public))
    peer.step("no such public image", lambda: ssm.get_parameter(Name=public.replace("1.33", "0.33")))
