#ifndef APUS_CMOSQUITTO_H
#define APUS_CMOSQUITTO_H
#include <mosquitto.h>
#endif
