#!/bin/bash
echo tcg
