# One mesh, on the platform that `platform` names. Both run the same image with the same settings.

module "kubernetes" {
  source = "./kubernetes"
  count  = var.platform == "kubernetes" ? 1 : 0

  name        = var.name
  namespace   = var.namespace
  nodes       = var.nodes
  image       = var.image
  mesh_secret = var.mesh_secret
  users       = var.users
}

module "docker" {
  source = "./docker"
  count  = var.platform == "docker" ? 1 : 0

  name        = var.name
  nodes       = var.nodes
  image       = var.image
  mesh_secret = var.mesh_secret
  users       = var.users
  first_port  = var.first_port
}
