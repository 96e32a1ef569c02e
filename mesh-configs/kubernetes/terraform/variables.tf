# Where the mesh runs. Terraform reserves the name `provider`, so this is `platform`.
variable "platform" {
  description = "Where the nodes run: kubernetes (by the Helm chart beside this module) or docker (one machine)."
  type        = string
  default     = "kubernetes"
  validation {
    condition     = contains(["kubernetes", "docker"], var.platform)
    error_message = "The platform is kubernetes or docker."
  }
}

variable "name" {
  description = "What nodes, services and volumes are called; node N is NAME-N."
  type        = string
  default     = "apus"
  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", var.name))
    error_message = "The name has 1 to 40 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "nodes" {
  description = "How many nodes the mesh has."
  type        = number
  default     = 3
  validation {
    condition     = var.nodes >= 1 && var.nodes <= 64 && floor(var.nodes) == var.nodes
    error_message = "A mesh of this module has 1 to 64 nodes."
  }
}

variable "image" {
  description = "The image of a node, as packaging/docker builds it, with its tag."
  type        = string
}

variable "mesh_secret" {
  description = "What all nodes know and nobody else."
  type        = string
  sensitive   = true
  validation {
    condition     = length(var.mesh_secret) >= 16
    error_message = "The secret of a mesh has at least 16 characters."
  }
}

variable "users" {
  description = "The user file: what `apus user add --file users NAME` writes. It has hashes of passwords."
  type        = string
  sensitive   = true
}

variable "namespace" {
  description = "Kubernetes only: the namespace, which is there already."
  type        = string
  default     = "default"
}

variable "first_port" {
  description = "Docker only: MQTT of the first node on this machine's loopback; that of the next ones follows."
  type        = number
  default     = 1883
}
