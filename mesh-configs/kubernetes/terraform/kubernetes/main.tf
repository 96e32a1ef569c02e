# The Helm chart, with the two secrets it needs.
terraform {
  required_providers {
    helm       = { source = "hashicorp/helm" }
    kubernetes = { source = "hashicorp/kubernetes" }
  }
}

variable "name" { type = string }
variable "namespace" { type = string }
variable "nodes" { type = number }
variable "image" { type = string }
variable "mesh_secret" {
  type      = string
  sensitive = true
}
variable "users" {
  type      = string
  sensitive = true
}

locals {
  # The tag is what follows the last colon, which is not that of a registry's port.
  parts = regex("^(.*?)(?::([^:/]+))?$", var.image)
}

resource "kubernetes_secret_v1" "mesh" {
  metadata {
    name      = "${var.name}-mesh"
    namespace = var.namespace
  }
  data = { secret = var.mesh_secret }
}

resource "kubernetes_secret_v1" "users" {
  metadata {
    name      = "${var.name}-users"
    namespace = var.namespace
  }
  data = { users = var.users }
}

resource "helm_release" "apus" {
  name      = var.name
  namespace = var.namespace
  chart     = "${path.module}/../../helm"
  values = [yamlencode({
    replicas = var.nodes
    image    = { repository = local.parts[0], tag = coalesce(local.parts[1], "latest") }
    mesh     = { existingSecret = kubernetes_secret_v1.mesh.metadata[0].name }
    users    = { existingSecret = kubernetes_secret_v1.users.metadata[0].name }
  })]
}

output "mqtt" {
  value = ["${var.name}-clients.${var.namespace}.svc:1883"]
}
