# Containers on one machine, in a network of their own; clients come in by loopback.
terraform {
  required_providers {
    docker = { source = "kreuzwerker/docker" }
  }
}

variable "name" { type = string }
variable "nodes" { type = number }
variable "image" { type = string }
variable "first_port" { type = number }
variable "mesh_secret" {
  type      = string
  sensitive = true
}
variable "users" {
  type      = string
  sensitive = true
}

resource "docker_network" "mesh" {
  name = var.name
}

resource "docker_volume" "data" {
  count = var.nodes
  name  = "${var.name}-${count.index}"
}

resource "docker_container" "node" {
  count    = var.nodes
  name     = "${var.name}-${count.index}"
  hostname = "${var.name}-${count.index}"
  image    = var.image
  restart  = "unless-stopped"

  # More than the drain below.
  stop_timeout = 30
  memory       = 512
  capabilities {
    drop = ["ALL"]
  }
  security_opts = ["no-new-privileges:true"]

  env = concat([
    "APUS_NODE_NAME=${var.name}-${count.index}",
    "APUS_NODE_DATA=/var/lib/apus",
    "APUS_NODE_LANES=2",
    "APUS_NODE_DRAIN_SECONDS=10",
    "APUS_LISTENERS_0_PROTOCOL=mqtt",
    "APUS_LISTENERS_0_LISTEN=0.0.0.0:1883",
    "APUS_MESH_ID=docker",
    "APUS_MESH_LISTEN=0.0.0.0:7400",
    "APUS_MESH_ADVERTISE=${var.name}-${count.index}:7400",
    "APUS_MESH_SECRET=${var.mesh_secret}",
    "APUS_SECURITY_ANONYMOUS=never",
    "APUS_SECURITY_USERS=/etc/apus/users",
    "APUS_SECURITY_ACCESS_0_ALLOW=all",
    "APUS_SECURITY_ACCESS_0_TOPICS=#",
    "APUS_SECURITY_ACCESS_0_GROUPS=operators",
    "APUS_LOG_FORMAT=json",
  ], [for index in range(min(var.nodes, 3)) : "APUS_MESH_LINKS_${index}_TO=${var.name}-${index}:7400"])

  networks_advanced {
    name = docker_network.mesh.name
  }
  ports {
    internal = 1883
    external = var.first_port + count.index
    ip       = "127.0.0.1"
  }
  upload {
    file    = "/etc/apus/users"
    content = var.users
    # The hashes in it must be readable for the node, which is not root.
    permissions = "0444"
  }
  volumes {
    volume_name    = docker_volume.data[count.index].name
    container_path = "/var/lib/apus"
  }
}

output "mqtt" {
  value = [for index in range(var.nodes) : "127.0.0.1:${var.first_port + index}"]
}
