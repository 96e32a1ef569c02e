#ifndef APUS_CMOSQUITTO_H
#define APUS_CMOSQUITTO_H
#include <mosquitto.h>
#include <mqtt_protocol.h>
#endif
