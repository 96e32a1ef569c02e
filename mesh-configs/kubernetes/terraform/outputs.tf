output "mqtt" {
  description = "Where clients of MQTT reach the mesh: any of these."
  value       = var.platform == "kubernetes" ? module.kubernetes[0].mqtt : module.docker[0].mqtt
}
